//! An attempt as bytes; `history` has the layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::super::record::{Reader, Record, Seed, Stamp, encode_record};
use super::{Attempt, EXCERPT_BYTES, Phase, Recorded, Timings};
use crate::clock::Age;
use crate::event::{Cause, EventId};

/// Kind of a record of one attempt.
pub(super) const KIND_ATTEMPT: u8 = 97;

/// The kind before, which has one time for all of dialling.
const KIND_ATTEMPT_OLD: u8 = 96;

/// A time that there was not.
const NO_TIME: u32 = u32::MAX;

/// Appends an attempt's record.
pub(super) fn encode(out: &mut Vec<u8>, seed: Seed, recorded: &Recorded) {
    let Recorded { number, attempt } = recorded;
    let stamp = Stamp { durable_upto: 0, commit: *number };
    encode_record(out, seed, KIND_ATTEMPT, stamp, |out| {
        for value in [*number, attempt.age.0, attempt.at_ms] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(attempt.event.0.as_bytes());
        out.extend_from_slice(&attempt.generation.to_le_bytes());
        out.extend_from_slice(&attempt.number.to_le_bytes());
        let Timings { lookup, connect, tls, first_byte } = attempt.timings;
        for time in [lookup, connect, tls, first_byte] {
            let time = time.map_or(NO_TIME, |time| {
                u32::try_from(micros(time)).unwrap_or(NO_TIME - 1).min(NO_TIME - 1)
            });
            out.extend_from_slice(&time.to_le_bytes());
        }
        out.extend_from_slice(&micros(attempt.took).to_le_bytes());
        out.extend_from_slice(&attempt.status.to_le_bytes());
        let code = attempt.code.map_or(0, |cause| cause as u8);
        out.extend_from_slice(&[code, attempt.phase as u8, u8::from(attempt.replay)]);
        encode_remote(out, attempt.remote);
        let name = attempt.connection.as_bytes();
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        out.push(length);
        out.extend(name.iter().take(usize::from(length)));
        out.extend(attempt.excerpt.iter().take(EXCERPT_BYTES));
    });
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn encode_remote(out: &mut Vec<u8>, remote: Option<SocketAddr>) {
    let (kind, address) = match remote.map(|remote| remote.ip()) {
        None => (0, [0; 16]),
        Some(IpAddr::V4(address)) => (4, address.to_ipv6_compatible().octets()),
        Some(IpAddr::V6(address)) => (6, address.octets()),
    };
    out.push(kind);
    out.extend_from_slice(&address);
    out.extend_from_slice(&remote.map_or(0, |remote| remote.port()).to_le_bytes());
}

/// Reads an attempt. `None`: another kind, or not a legal one.
pub(super) fn decode(record: &Record<'_>) -> Option<Recorded> {
    if ![KIND_ATTEMPT, KIND_ATTEMPT_OLD].contains(&record.kind) {
        return None;
    }
    let mut reader = Reader::new(record.body);
    let number = reader.u64()?;
    let (age, at_ms) = (Age(reader.u64()?), reader.u64()?);
    let event = EventId(Uuid::from_slice(reader.take(16)?).ok()?);
    let generation = reader.u64()?;
    let attempt_number = reader.u32()?;
    let timings = match record.kind {
        KIND_ATTEMPT => Timings {
            lookup: time(&mut reader)?,
            connect: time(&mut reader)?,
            tls: time(&mut reader)?,
            first_byte: time(&mut reader)?,
        },
        _ => Timings { connect: time(&mut reader)?, ..Timings::default() },
    };
    let took = Duration::from_micros(reader.u64()?);
    let status = u16::from_le_bytes(reader.take(2)?.try_into().ok()?);
    let code = match reader.u8()? {
        0 => None,
        number => Some(Cause::from_number(number).unwrap_or(Cause::Internal)),
    };
    let phase = Phase::from_number(reader.u8()?)?;
    let replay = reader.u8()? == 1;
    let remote = decode_remote(&mut reader)?;
    let length = usize::from(reader.u8()?);
    let connection: Arc<str> = std::str::from_utf8(reader.take(length)?).ok()?.into();
    let excerpt = Bytes::copy_from_slice(reader.rest());
    let attempt = Attempt {
        connection,
        event,
        number: attempt_number,
        replay,
        at_ms,
        age,
        phase,
        timings,
        took,
        remote,
        status,
        code,
        generation,
        excerpt,
    };
    Some(Recorded { number, attempt })
}

/// `None`: cut off; inside: there was none.
fn time(reader: &mut Reader<'_>) -> Option<Option<Duration>> {
    let micros = Some(reader.u32()?).filter(|micros| *micros != NO_TIME);
    Some(micros.map(|micros| Duration::from_micros(u64::from(micros))))
}

fn decode_remote(reader: &mut Reader<'_>) -> Option<Option<SocketAddr>> {
    let kind = reader.u8()?;
    let octets: [u8; 16] = reader.take(16)?.try_into().ok()?;
    let port = u16::from_le_bytes(reader.take(2)?.try_into().ok()?);
    let [.., a, b, c, d] = octets;
    Some(match kind {
        4 => Some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port))),
        6 => Some(SocketAddr::from((Ipv6Addr::from(octets), port))),
        _ => None,
    })
}
