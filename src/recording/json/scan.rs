//! One line of JSON into spans of the line, without allocation on the usual path. Knows JSON and the top-level keys,
//! nothing of streams. Strict: what this accepts, any JSON parser accepts.

use super::number::Decimal;

/// How deep values may be nested.
const DEPTH: u32 = 64;

/// What is wrong with a line, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) at: usize,
    pub(crate) what: String,
}

/// Text within the line, or in the scratch space if it had escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// The number and how it was written.
    Number(Decimal, Span),
    Text(Span),
    Bool(bool),
    Null,
    /// A list or an object, passed over.
    Nested,
}

/// A key, its value and the value's first byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) key: Span,
    pub(crate) value: Value,
    pub(crate) at: usize,
}

/// What a line says; reused from line to line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) time: Option<(Value, usize)>,
    pub(crate) stream: Option<Span>,
    pub(crate) subject: Option<(Span, usize)>,
    pub(crate) covered: Option<bool>,
    /// There is a `declare`, to be read by other means.
    pub(crate) declares: bool,
    /// From `fields` if there is one, else all other keys.
    pub(crate) entries: Vec<Entry>,
    /// Subjects named by `gone`, and where.
    pub(crate) gone: Vec<(Span, usize)>,
    scratch: String,
}

impl Line {
    /// The text that a span of `line` stands for.
    pub(crate) fn text<'a>(&'a self, line: &'a str, span: Span) -> &'a str {
        let from = if span.escaped { &self.scratch } else { line };
        from.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    /// Reads a line.
    pub(crate) fn parse(&mut self, line: &str) -> Result<(), Malformed> {
        self.time = None;
        self.stream = None;
        self.subject = None;
        self.covered = None;
        self.declares = false;
        self.entries.clear();
        self.gone.clear();
        self.scratch.clear();
        let mut scan = Scan { text: line, bytes: line.as_bytes(), at: 0 };
        scan.space();
        self.object(&mut scan)?;
        scan.space();
        if scan.at < scan.bytes.len() { Err(scan.wrong("more text after the object")) } else { Ok(()) }
    }

    fn object(&mut self, scan: &mut Scan) -> Result<(), Malformed> {
        let mut has_fields = false;
        scan.open(b'{', "an object: {\"t\": …, \"stream\": …}")?;
        let mut more = scan.first(b'}')?;
        while more {
            let key = self.key(scan)?;
            let at = scan.at;
            match self.text(scan.text, key) {
                "t" | "time" | "ts" | "@timestamp" => self.time = Some((self.value(scan)?, at)),
                "stream" => self.stream = Some(self.string(scan)?),
                "subject" => self.subject = Some((self.string(scan)?, at)),
                "fields" if scan.peek() == Some(b'{') => {
                    has_fields = true;
                    self.entries.clear();
                    scan.open(b'{', "an object")?;
                    let mut more = scan.first(b'}')?;
                    while more {
                        let key = self.key(scan)?;
                        let at = scan.at;
                        let value = self.value(scan)?;
                        self.entries.push(Entry { key, value, at });
                        more = scan.next(b'}')?;
                    }
                }
                "gone" if scan.peek() == Some(b'[') => {
                    scan.open(b'[', "a list")?;
                    let mut more = scan.first(b']')?;
                    while more {
                        let at = scan.at;
                        let subject = self.string(scan)?;
                        self.gone.push((subject, at));
                        more = scan.next(b']')?;
                    }
                }
                "declare" if scan.peek() == Some(b'{') => {
                    self.declares = true;
                    self.value(scan)?;
                }
                is_covered => {
                    let is_covered = is_covered == "covered";
                    match self.value(scan)? {
                        Value::Bool(b) if is_covered => self.covered = Some(b),
                        value if !has_fields => self.entries.push(Entry { key, value, at }),
                        _ => {}
                    }
                }
            }
            more = scan.next(b'}')?;
        }
        Ok(())
    }

    fn key(&mut self, scan: &mut Scan) -> Result<Span, Malformed> {
        let key = self.string(scan)?;
        scan.space();
        scan.open(b':', "a colon after the key")?;
        scan.space();
        Ok(key)
    }

    fn string(&mut self, scan: &mut Scan) -> Result<Span, Malformed> {
        scan.open(b'"', "text in double quotes")?;
        let start = scan.at;
        loop {
            match scan.peek() {
                Some(b'"') => break,
                Some(b'\\') => return self.unescape(scan, start),
                Some(0..0x20) | None => return Err(scan.wrong("the text is not ended by a double quote")),
                _ => scan.at += 1,
            }
        }
        scan.at += 1;
        Ok(Span { start: start as u32, end: (scan.at - 1) as u32, escaped: false })
    }

    /// Goes on with a text that has an escape, which begins at the scan's place.
    #[cold]
    fn unescape(&mut self, scan: &mut Scan, start: usize) -> Result<Span, Malformed> {
        let began = self.scratch.len() as u32;
        let mut from = start;
        loop {
            match scan.peek() {
                Some(b'"') => {
                    self.scratch.push_str(&scan.text[from..scan.at]);
                    scan.at += 1;
                    return Ok(Span { start: began, end: self.scratch.len() as u32, escaped: true });
                }
                Some(b'\\') => {
                    self.scratch.push_str(&scan.text[from..scan.at]);
                    let c = scan.escape()?;
                    self.scratch.push(c);
                    from = scan.at;
                }
                Some(0..0x20) | None => return Err(scan.wrong("the text is not ended by a double quote")),
                _ => scan.at += 1,
            }
        }
    }

    fn value(&mut self, scan: &mut Scan) -> Result<Value, Malformed> {
        Ok(match scan.peek() {
            Some(b'-' | b'0'..=b'9') => {
                let start = scan.at;
                let number = scan.number()?;
                Value::Number(number, Span { start: start as u32, end: scan.at as u32, escaped: false })
            }
            Some(b'"') => Value::Text(self.string(scan)?),
            Some(b't') => scan.word("true", Value::Bool(true))?,
            Some(b'f') => scan.word("false", Value::Bool(false))?,
            Some(b'n') => scan.word("null", Value::Null)?,
            Some(b'{' | b'[') => {
                self.nested(scan, 0)?;
                Value::Nested
            }
            _ => return Err(scan.wrong("expected a value")),
        })
    }

    fn nested(&mut self, scan: &mut Scan, depth: u32) -> Result<(), Malformed> {
        if depth > DEPTH {
            return Err(scan.wrong("values are nested too deep"));
        }
        let (is_object, end) = if scan.peek() == Some(b'{') { (true, b'}') } else { (false, b']') };
        scan.at += 1;
        let mut more = scan.first(end)?;
        while more {
            if is_object {
                self.key(scan)?;
            }
            match scan.peek() {
                Some(b'{' | b'[') => self.nested(scan, depth + 1)?,
                _ => {
                    self.value(scan)?;
                }
            }
            more = scan.next(end)?;
        }
        Ok(())
    }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    #[cold]
    fn wrong(&self, what: &str) -> Malformed {
        Malformed { at: self.at, what: what.into() }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn open(&mut self, byte: u8, what: &str) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(&format!("expected {what}")));
        }
        self.at += 1;
        Ok(())
    }

    /// After an opening bracket: whether an element follows.
    #[inline]
    fn first(&mut self, end: u8) -> Result<bool, Malformed> {
        self.space();
        let ended = self.peek() == Some(end);
        self.at += usize::from(ended);
        Ok(!ended)
    }

    /// After an element: whether another follows.
    #[inline]
    fn next(&mut self, end: u8) -> Result<bool, Malformed> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(b) if b == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.wrong(&format!("expected `,` or `{}`", char::from(end)))),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Malformed> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("expected a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self, mantissa: &mut u64, rounded: &mut bool) -> Result<usize, Malformed> {
        let start = self.at;
        while let Some(d @ b'0'..=b'9') = self.peek() {
            match mantissa.checked_mul(10).and_then(|m| m.checked_add(u64::from(d - b'0'))) {
                Some(m) if !*rounded => *mantissa = m,
                _ => *rounded = true,
            }
            self.at += 1;
        }
        if self.at == start { Err(self.wrong("expected a digit")) } else { Ok(self.at - start) }
    }

    fn number(&mut self) -> Result<Decimal, Malformed> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let (mut mantissa, mut exponent, mut rounded) = (0, 0i32, false);
        let leading_zero = self.peek() == Some(b'0');
        if self.digits(&mut mantissa, &mut rounded)? > 1 && leading_zero {
            return Err(self.wrong("a number begins with 0"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            exponent = -(self.digits(&mut mantissa, &mut rounded)? as i32);
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            let down = self.peek() == Some(b'-');
            self.at += usize::from(matches!(self.peek(), Some(b'-' | b'+')));
            let (mut power, mut far) = (0, false);
            self.digits(&mut power, &mut far)?;
            let power = if far { i32::MAX } else { i32::try_from(power).unwrap_or(i32::MAX) };
            exponent = exponent.saturating_add(if down { -power } else { power });
        }
        let rounded = if rounded { self.text[start..self.at].parse().ok() } else { None };
        Ok(Decimal { negative, mantissa, exponent, rounded })
    }

    /// One escape, beginning at the backslash.
    fn escape(&mut self) -> Result<char, Malformed> {
        let c = match self.bytes.get(self.at + 1) {
            Some(b'u') => {
                let high = self.hex(self.at + 2)?;
                self.at += 6;
                if !(0xd800..0xdc00).contains(&high) {
                    return char::from_u32(high).ok_or_else(|| self.wrong("half of a surrogate pair"));
                }
                if !self.bytes[self.at..].starts_with(b"\\u") {
                    return Err(self.wrong("half of a surrogate pair"));
                }
                let low = self.hex(self.at + 2)?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(self.wrong("half of a surrogate pair"));
                }
                self.at += 6;
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(code).ok_or_else(|| self.wrong("half of a surrogate pair"));
            }
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(*c),
            _ => return Err(self.wrong("an unknown escape")),
        };
        self.at += 2;
        Ok(c)
    }

    fn hex(&self, at: usize) -> Result<u32, Malformed> {
        let digits = self.bytes.get(at..at + 4).unwrap_or_default();
        let value = digits.iter().try_fold(0, |v, d| char::from(*d).to_digit(16).map(|d| v * 16 + d));
        value.filter(|_| digits.len() == 4).ok_or_else(|| self.wrong("expected four hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrong(line: &str) -> (usize, String) {
        let e = Line::default().parse(line).unwrap_err();
        (e.at, e.what)
    }

    #[test]
    fn errors_have_their_place() {
        assert_eq!(wrong("").0, 0);
        assert_eq!(wrong("[1]").0, 0);
        assert_eq!(wrong("{\"t\":1,}").0, 7);
        assert_eq!(wrong("{\"t\" 1}"), (5, "expected a colon after the key".into()));
        assert_eq!(wrong("{\"t\":01}").0, 7);
        assert_eq!(wrong("{\"t\":1.}").0, 7);
        assert_eq!(wrong("{\"t\":1} x"), (8, "more text after the object".into()));
        assert_eq!(wrong("{\"a\":\"x"), (7, "the text is not ended by a double quote".into()));
        assert_eq!(wrong("{\"a\":\"\\ud800x\"}"), (12, "half of a surrogate pair".into()));
        assert_eq!(wrong(&format!("{{\"a\":{}", "[".repeat(1000))).1, "values are nested too deep");
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value as J;
        let leaf = prop_oneof![
            Just(J::Null),
            any::<bool>().prop_map(J::from),
            any::<f64>().prop_map(J::from),
            any::<i64>().prop_map(J::from),
            any::<u64>().prop_map(J::from),
            any::<String>().prop_map(J::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(J::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|m| J::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Every object that another library writes is read, with the same keys and values.
        #[test]
        fn reads_what_others_write(fields in prop::collection::btree_map("[a-z\\\\\"\u{1}ü]{0,6}", json(), 0..6)) {
            let object = serde_json::json!({"t": 1.5, "stream": "s", "fields": fields});
            let text = object.to_string();
            let mut line = Line::default();
            line.parse(&text).map_err(|e| TestCaseError::fail(format!("{e:?} in {text}")))?;
            prop_assert_eq!(line.entries.len(), fields.len());
            for e in &line.entries {
                let want = &fields[line.text(&text, e.key)];
                match e.value {
                    Value::Number(d, span) => prop_assert_eq!(Some(d.float(line.text(&text, span))), want.as_f64()),
                    Value::Text(s) => prop_assert_eq!(Some(line.text(&text, s)), want.as_str()),
                    Value::Bool(b) => prop_assert_eq!(Some(b), want.as_bool()),
                    Value::Null => prop_assert!(want.is_null()),
                    Value::Nested => prop_assert!(want.is_array() || want.is_object()),
                }
            }
        }

        /// What is accepted is JSON to another library too.
        #[test]
        fn accepts_only_json(s in "[\\[\\]{}:,\"\\\\0-9a-ftrue.eE+ -]{0,40}", t in "[0-9.eE+-]{0,8}") {
            for text in [s, format!("{{\"t\":{t}}}")] {
                // Numbers beyond f64 are the one difference: JSON's grammar allows them.
                if Line::default().parse(&text).is_ok()
                    && let Err(e) = serde_json::from_str::<serde_json::Value>(&text)
                {
                    prop_assert!(e.to_string().contains("number out of range"), "{text}: {e}");
                }
            }
        }

        #[test]
        fn any_text_is_safe(s: String) {
            let _ = Line::default().parse(&s);
            let _ = Line::default().parse(&format!("{{\"t\":{s}"));
        }
    }
}
