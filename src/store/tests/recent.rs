//! Looking for a connection's latest events, what is over included.

use super::*;

impl Rig {
    /// As [`Store::events_since`] finds them, without its threads: bodies, newest first.
    fn recent(&mut self, connection: ConnectionId) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        for (segment, entries) in self.ask(|reply| Command::Recent { connection, reply }) {
            let events = self.writer.files.events(segment, &entries);
            bodies.extend(events.iter().map(|event| event.content.body().to_vec()));
        }
        bodies
    }
}

#[test]
fn the_latest_events_of_a_connection_are_found_newest_first_also_after_a_restart() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let (crm, erp) = (rig.connection("crm"), rig.connection("erp"));
    for number in 0..5 {
        let to = if number == 3 { &erp } else { &crm };
        rig.append(format!("body {number}").as_bytes(), std::slice::from_ref(to)).unwrap();
    }
    rig.deliver_all();
    let expected: Vec<_> = [4, 2, 1, 0].map(|number| format!("body {number}").into_bytes()).into();
    assert_eq!(rig.recent(crm.0), expected);
    rig.append(b"body 5", std::slice::from_ref(&crm)).unwrap();
    drop(rig);
    rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let found = rig.recent(crm.0);
    assert_eq!(found.first().map(Vec::as_slice), Some(&b"body 5"[..]), "{found:?}");
    assert_eq!(rig.recent(ConnectionId(99)), [[0; 0]; 0]);
}
