//! One line of the log: `{"event":{...},"prev":"...","seq":0}`, RFC 8785, and a newline.

use super::LINE_MAX;
use super::base64;
use super::json;
use super::tree::{Hash, leaf_hash};
use crate::{Error, Result};

const HEAD: &str = "{\"event\":";
const PREV: &str = ",\"prev\":\"";
const SEQ: &str = "\",\"seq\":";

/// What stands before the first line's event: there is no line whose hash it could have.
pub const NO_PREV: Hash = [0; 32];

/// A line that was read, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The event, an object.
    pub event: &'a str,
    /// Leaf hash of the line before, as this line says it.
    pub prev: Hash,
    /// Its number, as it says it.
    pub seq: u64,
}

/// Reads a line.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn parse(line: &[u8]) -> std::result::Result<Record<'_>, &'static str> {
    if line.len() >= LINE_MAX {
        return Err("longer than a record can be");
    }
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    if !text.starts_with(HEAD) {
        return Err("no record");
    }
    let end = json::object_end(text, HEAD.len())?;
    let rest = text[end..].strip_prefix(PREV).ok_or("no prev")?;
    let prev = rest
        .as_bytes()
        .get(..base64::HASH_LEN)
        .and_then(base64::decode_hash)
        .ok_or("prev is no hash")?;
    let rest = rest[base64::HASH_LEN..].strip_prefix(SEQ).ok_or("no seq")?;
    let digits = rest.strip_suffix('}').ok_or("no end")?;
    let seq = sequence(digits.as_bytes()).ok_or("seq is no number")?;
    Ok(Record {
        event: &text[HEAD.len()..end],
        prev,
        seq,
    })
}

fn sequence(digits: &[u8]) -> Option<u64> {
    match digits {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 15 && digits.iter().all(u8::is_ascii_digit) => Some(
            digits
                .iter()
                .fold(0, |value, digit| value * 10 + u64::from(digit - b'0')),
        ),
        _ => None,
    }
}

/// Appends the line of an event to `out`, and returns its leaf hash.
///
/// # Errors
/// [`Error::Invalid`] for an event that is no canonical object, or too long.
pub fn seal(event: &str, prev: &Hash, seq: u64, out: &mut Vec<u8>) -> Result<Hash> {
    match json::object_end(event, 0) {
        Ok(end) if end == event.len() => {}
        Ok(_) => return Err(Error::Invalid("an event is one object".into())),
        Err(text) => {
            return Err(Error::Invalid(format!(
                "an event in canonical JSON: {text}"
            )));
        }
    }
    let start = out.len();
    out.extend_from_slice(HEAD.as_bytes());
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(PREV.as_bytes());
    out.extend_from_slice(base64::encode(prev).as_bytes());
    out.extend_from_slice(SEQ.as_bytes());
    out.extend_from_slice(seq.to_string().as_bytes());
    out.push(b'}');
    if out.len() - start >= LINE_MAX {
        let len = out.len() - start;
        out.truncate(start);
        return Err(Error::Invalid(format!(
            "the record has {len} bytes, and less than {LINE_MAX} are allowed"
        )));
    }
    let hash = leaf_hash(&out[start..]);
    out.push(b'\n');
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut out = Vec::new();
        let hash = seal("{\"a\":1}", &NO_PREV, 7, &mut out).expect("canonical");
        let line = out.strip_suffix(b"\n").expect("a newline");
        assert_eq!(
            line,
            b"{\"event\":{\"a\":1},\"prev\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"seq\":7}"
        );
        assert_eq!(hash, leaf_hash(line));
        let record = parse(line).expect("its own");
        assert_eq!(
            (record.event, record.prev, record.seq),
            ("{\"a\":1}", NO_PREV, 7)
        );
        for end in 0..line.len() {
            assert!(parse(&line[..end]).is_err());
        }
        let text = String::from_utf8_lossy(line);
        for (from, to) in [
            ("7}", "07}"),
            ("7}", "7 }"),
            ("A=", "B="),
            ("7}", "7}}"),
            ("1}", "1},"),
        ] {
            assert!(
                parse(text.replacen(from, to, 1).as_bytes()).is_err(),
                "{from} {to}"
            );
        }
        assert!(seal("{\"a\":1.5}", &NO_PREV, 7, &mut out).is_err());
        assert!(seal("{}{}", &NO_PREV, 7, &mut out).is_err());
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LINE_MAX));
        assert!(seal(&long, &NO_PREV, 7, &mut out).is_err());
    }
}
