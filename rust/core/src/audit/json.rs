//! The part of JSON that an event may be, in the one form of RFC 8785 (JCS): a check, no parser,
//! since the log's lines are hashed as they stand.
//!
//! Less than JSON has: names of members are ASCII letters, digits and underscores, so that their
//! order by UTF-16 code units is that of their bytes; numbers are integers within 2^53 - 1, so that
//! no two programs disagree on their digits; nesting ends at [`DEPTH_MAX`].

/// Objects and arrays within each other.
pub const DEPTH_MAX: u8 = 8;

/// The largest integer that every JSON reader keeps (RFC 8785 §3.2.2.3).
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Where an object that begins at `text[start]` ends, if it is in canonical form.
///
/// # Errors
/// What is wrong, in a few words.
pub fn object_end(text: &str, start: usize) -> Result<usize, &'static str> {
    let mut scan = Scan {
        bytes: text.as_bytes(),
        at: start,
    };
    scan.object(DEPTH_MAX)?;
    Ok(scan.at)
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Checked = Result<(), &'static str>;

impl Scan<'_> {
    fn peek(&self) -> u8 {
        // NUL is nowhere allowed, so it can stand for the end.
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn expect(&mut self, wanted: u8, what: &'static str) -> Checked {
        if self.peek() != wanted {
            return Err(what);
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: u8) -> Checked {
        match self.peek() {
            b'"' => self.string(),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'-' | b'0'..=b'9' => self.integer(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => Err("no canonical value"),
        }
    }

    fn object(&mut self, depth: u8) -> Checked {
        let depth = depth.checked_sub(1).ok_or("nested too deeply")?;
        self.expect(b'{', "no object")?;
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        let mut last: &[u8] = &[];
        let bytes = self.bytes;
        loop {
            self.expect(b'"', "no name of a member")?;
            let start = self.at;
            while self.peek().is_ascii_alphanumeric() || self.peek() == b'_' {
                self.at += 1;
            }
            let name = &bytes[start..self.at];
            if name <= last {
                return Err("members out of order");
            }
            last = name;
            self.expect(b'"', "a name that is no identifier")?;
            self.expect(b':', "no colon")?;
            self.value(depth)?;
            match self.peek() {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err("no end of the object"),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: u8) -> Checked {
        let depth = depth.checked_sub(1).ok_or("nested too deeply")?;
        self.at += 1;
        if self.peek() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth)?;
            match self.peek() {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err("no end of the array"),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Checked {
        if !self.bytes[self.at..].starts_with(word) {
            return Err("no canonical value");
        }
        self.at += word.len();
        Ok(())
    }

    fn integer(&mut self) -> Checked {
        let negative = self.peek() == b'-';
        self.at += usize::from(negative);
        let start = self.at;
        let mut value: u64 = 0;
        while self.peek().is_ascii_digit() {
            value = value
                .saturating_mul(10)
                .saturating_add(u64::from(self.peek() - b'0'));
            self.at += 1;
        }
        let digits = &self.bytes[start..self.at];
        let canonical = match digits {
            [] => false,
            [b'0'] => !negative,
            [b'0', ..] => false,
            _ => value <= INTEGER_MAX,
        };
        if canonical {
            Ok(())
        } else {
            Err("a number that is no canonical integer within 2^53 - 1")
        }
    }

    fn string(&mut self) -> Checked {
        self.at += 1;
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err("a string without end");
            };
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                0..=0x1f => return Err("a control character that is not escaped"),
                _ => {}
            }
        }
    }

    /// The shortest escape of a character, and only for those that need one (RFC 8785 §3.2.2.2).
    fn escape(&mut self) -> Checked {
        const WRONG: &str = "an escape that is not canonical";
        let kind = self.peek();
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let rest = self.bytes.get(self.at..self.at + 4).ok_or(WRONG)?;
                let [b'0', b'0', high @ (b'0' | b'1'), low] = *rest else {
                    return Err(WRONG);
                };
                let low = match low {
                    b'0'..=b'9' => low - b'0',
                    b'a'..=b'f' => low - b'a' + 10,
                    _ => return Err(WRONG),
                };
                // These have short forms: \b \t \n \f \r.
                if high == b'0' && matches!(low, 8 | 9 | 10 | 12 | 13) {
                    return Err(WRONG);
                }
                self.at += 4;
                Ok(())
            }
            _ => Err(WRONG),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        for good in [
            r#"{}"#,
            r#"{"a":[],"b":{}}"#,
            r#"{"A":1,"_":-1,"a":9007199254740991,"b":null,"c":true,"d":false}"#,
            r#"{"a":"\b\f\n\r\t\"\\\u0000\u001f€😀/"}"#,
            r#"{"a":[1,"x",{"b":[null]}]}"#,
        ] {
            assert_eq!(object_end(good, 0), Ok(good.len()), "{good}");
        }
    }

    #[test]
    fn everything_else() {
        for bad in [
            "",
            "[]",
            "{",
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            r#"{"a" :1}"#,
            r#"{"b":1,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"":1}"#,
            r#"{"a-b":1}"#,
            r#"{"a":01}"#,
            r#"{"a":-0}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":9007199254740992}"#,
            r#"{"a":99999999999999999999999}"#,
            r#"{"a":tru}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":"\u0041"}"#,
            r#"{"a":"\u000a"}"#,
            r#"{"a":"\u001F"}"#,
            r#"{"a":"\u00"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"x}"#,
            r#"{"a":[[[[[[[[1]]]]]]]]}"#,
        ] {
            assert!(object_end(bad, 0).is_err(), "{bad}");
        }
    }
}
