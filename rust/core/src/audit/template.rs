//! Events with places to be filled in, for those that the core makes itself.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// What can be filled in. In a template's text each stands as its name between two U+0001, a
/// character that canonical JSON never holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// Bytes.
    pub bytes: u64,
    /// Count.
    pub count: u64,
    /// A key's id in hex.
    pub key_id: &'a str,
    /// A digest in hex.
    pub sha256: &'a str,
    /// Microseconds since 1970 of the event.
    pub time: u64,
}

impl Values<'_> {
    /// What an event of this moment has, and nothing else.
    #[must_use]
    pub fn of_now() -> Self {
        Self {
            time: now(),
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Bytes,
    Count,
    KeyId,
    Sha256,
    Milliseconds,
    Moment,
}

/// An event with places.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<(String, Option<Place>)>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a place of another name.
    pub fn new(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text.split('\u{1}');
        while let Some(fixed) = rest.next() {
            let place = match rest.next() {
                None => None,
                Some("bytes") => Some(Place::Bytes),
                Some("count") => Some(Place::Count),
                Some("key_id") => Some(Place::KeyId),
                Some("sha256") => Some(Place::Sha256),
                Some("time") => Some(Place::Milliseconds),
                Some("time_dt") => Some(Place::Moment),
                Some(_) => return Err(Error::Invalid("an unknown place in a template".into())),
            };
            parts.push((fixed.to_owned(), place));
        }
        Ok(Self { parts })
    }

    /// The event.
    #[must_use]
    pub fn filled(&self, values: &Values<'_>) -> String {
        let mut event = String::new();
        self.fill(values, &mut event);
        event
    }

    /// The event, appended to `out`.
    pub fn fill(&self, values: &Values<'_>, out: &mut String) {
        use std::fmt::Write;
        for (fixed, place) in &self.parts {
            out.push_str(fixed);
            match place {
                None => Ok(()),
                Some(Place::Bytes) => write!(out, "{}", values.bytes),
                Some(Place::Count) => write!(out, "{}", values.count),
                Some(Place::KeyId) => out.write_str(values.key_id),
                Some(Place::Sha256) => out.write_str(values.sha256),
                Some(Place::Milliseconds) => write!(out, "{}", values.time / 1000),
                Some(Place::Moment) => moment(values.time, out),
            }
            .expect("writing to a String never fails");
        }
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

/// Days since 1970 of a time in microseconds.
#[must_use]
pub fn day(time: u64) -> u64 {
    time / (86_400 * 1_000_000)
}

/// RFC 3339 in UTC with microseconds.
fn moment(time: u64, out: &mut String) -> std::fmt::Result {
    use std::fmt::Write;
    let (year, month, date) = civil(day(time));
    let (seconds, micros) = (time / 1_000_000 % 86_400, time % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(
        out,
        "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
    )
}

/// Year, month and day of a number of days since 1970: years are counted from March on, so that the
/// leap day is the last, in eras of 400 years that all have the same 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_764_077_050_123_456, "2025-11-25T13:24:10.123456Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut out = String::new();
            moment(time, &mut out).expect("a string");
            assert_eq!(out, text);
        }
    }

    #[test]
    fn places() {
        let template =
            Template::new("{\"b\":\u{1}bytes\u{1},\"t\":\u{1}time\u{1}}").expect("known");
        let mut out = String::new();
        let values = Values {
            bytes: 7,
            time: 8999,
            ..Values::default()
        };
        template.fill(&values, &mut out);
        assert_eq!(out, "{\"b\":7,\"t\":8}");
        assert!(Template::new("\u{1}x\u{1}").is_err());
    }
}
