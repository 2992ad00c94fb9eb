//! Lookups at a DNS server on loopback.

use std::cell::{Cell, RefCell};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::client::dns::NEGATIVE;

/// What the server says of a name and a type.
#[derive(Clone, Copy, Debug)]
enum Says {
    Address(&'static str, u32),
    /// An alias with its TTL, then the address.
    Alias(u32, &'static str, u32),
    Empty,
    NoSuchName,
    Fails,
    Nothing,
}

/// A DNS server with a few names; it notes what it is asked.
#[derive(Clone, Default)]
struct Server {
    asked: Rc<RefCell<Vec<String>>>,
    broken: Rc<Cell<bool>>,
}

impl Server {
    async fn start(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = self.clone();
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(answer) = server.answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        address
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let name = query.name().to_ascii();
        self.asked.borrow_mut().push(format!("{name} {}", query.query_type()));
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        let address = |text: &str| RData::from(text.parse::<IpAddr>().unwrap());
        let says = match self.broken.get() {
            true => Says::Fails,
            false => says(name.trim_end_matches('.'), query.query_type()),
        };
        match says {
            Says::Address(text, ttl) => {
                answer.add_answer(Record::from_rdata(query.name().clone(), ttl, address(text)));
            }
            Says::Alias(alias_ttl, text, ttl) => {
                let real = Name::from_ascii("real.example.").unwrap();
                let alias = RData::CNAME(CNAME(real.clone()));
                answer.add_answer(Record::from_rdata(query.name().clone(), alias_ttl, alias));
                answer.add_answer(Record::from_rdata(real, ttl, address(text)));
            }
            Says::Empty => {}
            Says::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
            Says::Fails => answer.metadata.response_code = ResponseCode::ServFail,
            Says::Nothing => return None,
        }
        Some(answer.to_vec().unwrap())
    }
}

fn says(name: &str, kind: RecordType) -> Says {
    let six = kind == RecordType::AAAA;
    match name {
        "both.example" if six => Says::Address("2001:db8::7", 40),
        "both.example" => Says::Address("192.0.2.7", 30),
        "four.example" if six => Says::Empty,
        "four.example" => Says::Address("192.0.2.7", 30),
        "alias.example" if six => Says::Empty,
        "alias.example" => Says::Alias(20, "192.0.2.8", 30),
        // One family's servers are silent, or fail.
        "half.example" if six => Says::Nothing,
        "half.example" => Says::Address("192.0.2.9", 30),
        "lame.example" if six => Says::Fails,
        "lame.example" => Says::Address("192.0.2.9", 30),
        "empty.example" => Says::Empty,
        "fails.example" => Says::Fails,
        _ => Says::NoSuchName,
    }
}

fn found(addresses: &[&str], ttl: Duration) -> Result<Found, NotFound> {
    Ok(Found { addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(), ttl })
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn both_families_are_asked_and_ttls_kept() {
    local(async {
        let server = Server::default();
        let ask = ask(vec![server.start().await]);
        for (name, expected) in [
            ("both.example", found(&["2001:db8::7", "192.0.2.7"], secs(30))),
            ("four.example", found(&["192.0.2.7"], secs(30))),
            ("alias.example", found(&["192.0.2.8"], secs(20))),
            ("half.example", found(&["192.0.2.9"], NEGATIVE)),
            ("lame.example", found(&["192.0.2.9"], NEGATIVE)),
        ] {
            let began = Instant::now();
            assert_eq!(ask(name).await, expected, "{name}");
            assert!(began.elapsed() < secs(2), "{name}");
        }
        let asked = server.asked.borrow();
        for kind in ["A", "AAAA"] {
            assert!(asked.contains(&format!("both.example. {kind}")), "{asked:?}");
        }
    });
}

#[test]
fn no_answer_and_a_no_are_told_apart() {
    local(async {
        let server = Server::default();
        let ask = ask(vec![server.start().await]);
        for name in ["missing.example", "empty.example"] {
            match ask(name).await {
                Err(NotFound::Nothing(detail)) => assert!(detail.contains(name), "{detail}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        match ask("fails.example").await {
            Err(NotFound::Failed(detail)) => assert!(detail.contains("fails.example"), "{detail}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn localhost_needs_no_server() {
    local(async {
        let server = Server::default();
        let ask = ask(vec![server.start().await]);
        let found = ask("localhost").await.unwrap();
        assert!(found.addresses.iter().all(|address| address.is_loopback()), "{found:?}");
        assert!(server.asked.borrow().is_empty());
    });
}

#[test]
fn a_connection_outlives_its_dns_server() {
    local(async {
        let server = Server::default();
        let dns = Dns::new(ask(vec![server.start().await]));
        let first = dns.addresses("four.example").await.unwrap();
        assert_eq!(&first[..], ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let asked = server.asked.borrow().len();
        server.broken.set(true);
        tokio::time::pause();
        tokio::time::advance(secs(31)).await;
        tokio::time::resume();
        assert_eq!(dns.addresses("four.example").await.unwrap(), first);
        assert!(server.asked.borrow().len() > asked, "nobody asked again");
    });
}
