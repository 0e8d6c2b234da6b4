//! The text in which LVM2 keeps its metadata: `name = value` and `name { … }`, nested (lvm2, lib/config). Values borrow from the text.

use crate::used::fields::Stop;

/// Deeper than any volume group goes: group, list of volumes, volume, segment.
const DEPTH_MAX: usize = 8;

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Text(&'a str),
    List(Vec<Value<'a>>),
    Section(Section<'a>),
}

/// Names in the order of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section<'a>(pub(super) Vec<(&'a str, Value<'a>)>);

impl<'a> Section<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, Stop> {
        match self.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(Stop::damaged(format_args!("its metadata has no number {name}"))),
        }
    }

    /// The sections in this one with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((*name, section)),
            _ => None,
        })
    }

    /// The section of this name; an empty one when there is none.
    pub(super) fn section(&self, name: &str) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.sections().filter(move |(found, _)| *found == name).flat_map(|(_, section)| section.sections())
    }
}

pub(super) fn parse(text: &str) -> Result<Section<'_>, Stop> {
    let mut parser = Parser { rest: text };
    let section = parser.section(0)?;
    parser.skip();
    if parser.rest.is_empty() { Ok(section) } else { Err(Parser::malformed()) }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn malformed() -> Stop {
        Stop::damaged("its metadata cannot be parsed")
    }

    /// White space, comments and the zero at the end.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            self.rest = comment.find('\n').and_then(|end| comment.get(end..)).unwrap_or_default();
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The longest beginning of such characters.
    fn run(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        self.rest = rest;
        run
    }

    fn section(&mut self, depth: usize) -> Result<Section<'a>, Stop> {
        let mut found = Section::default();
        loop {
            self.skip();
            let name = self.run(|c| c.is_ascii_alphanumeric() || "_-.+/".contains(c));
            if name.is_empty() {
                return Ok(found);
            }
            let value = if self.take('=') {
                self.value(depth)?
            } else if self.take('{') && depth < DEPTH_MAX {
                let section = self.section(depth + 1)?;
                if !self.take('}') {
                    return Err(Self::malformed());
                }
                Value::Section(section)
            } else {
                return Err(Self::malformed());
            };
            found.0.push((name, value));
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Stop> {
        if self.take('[') && depth < DEPTH_MAX {
            let mut list = Vec::new();
            while !self.take(']') {
                list.push(self.value(depth + 1)?);
                self.take(',');
            }
            return Ok(Value::List(list));
        }
        if self.take('"') {
            // A quote may be escaped; such text is of no interest here, so it stays as it is.
            let mut escaped = false;
            let text = self.run(|_| true);
            let end = text.bytes().position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            });
            let (value, rest) = end.and_then(|end| text.split_at_checked(end)).ok_or_else(Self::malformed)?;
            self.rest = rest.strip_prefix('"').unwrap_or_default();
            return Ok(Value::Text(value));
        }
        let number = self.run(|c| c.is_ascii_digit() || "-.".contains(c));
        // A number that is negative, broken or too large is none that is of interest.
        if number.is_empty() { Err(Self::malformed()) } else { Ok(number.parse().map_or(Value::Text(number), Value::Number)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_group_is_parsed() {
        let text = "# made by hand\nvg0 {\n\tid = \"a\\\"b\"\n\tseqno = 3\n\tstatus = [\"READ\", 7]\n\tlv {\n\t\tempty = []\n\t}\n}\nversion = 1 # one\n\0";
        let parsed = parse(text).unwrap();
        let (name, group) = parsed.sections().next().unwrap();
        assert_eq!((name, group.number("seqno").unwrap(), parsed.number("version").unwrap()), ("vg0", 3, 1));
        assert_eq!(group.get("id"), Some(&Value::Text("a\\\"b")));
        assert_eq!(group.get("status"), Some(&Value::List(vec![Value::Text("READ"), Value::Number(7)])));
        assert_eq!(group.sections().next().unwrap().0, "lv");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let deep = "a {".repeat(100_000);
        let lists = format!("a = {}", "[".repeat(100_000));
        for text in ["a", "a =", "a = [1", "a = \"x", "a { b = 1", "}", "a = ]", &deep, &lists] {
            assert!(parse(text).is_err(), "{}", text.get(..10).unwrap_or(text));
        }
    }
}
