//! The list of ids on the command line: `0-99,200`, `all` or `none`.

use std::ops::RangeInclusive;
use std::str::FromStr;

use bpf::WantSet;

/// Which ids are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Every id
    All,
    /// These ranges, none of them empty; no range means no id
    Listed(Vec<RangeInclusive<u32>>),
}

impl Ids {
    /// The largest id that is listed.
    pub(crate) fn largest(&self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Listed(ranges) => ranges.iter().map(|range| *range.end()).max(),
        }
    }

    /// Wants the ids.
    pub(crate) fn want(&self, wants: &WantSet) {
        match self {
            Self::All => wants.set_all(),
            Self::Listed(ranges) => {
                for id in ranges.iter().cloned().flatten() {
                    wants.set(id);
                }
            }
        }
    }
}

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{text:?} is no id"));
        match text {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::Listed(Vec::new())),
            _ => {}
        }
        text.split(',')
            .map(|part| {
                let range = match part.split_once('-') {
                    Some((first, last)) => number(first)?..=number(last)?,
                    None => number(part)?..=number(part)?,
                };
                if range.is_empty() { Err(format!("{part:?}: the smaller id comes first")) } else { Ok(range) }
            })
            .collect::<Result<_, _>>()
            .map(Self::Listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_wanted() {
        let ids: Ids = "0-3,9, 7-7".parse().unwrap();
        assert_eq!(ids.largest(), Some(9));
        let wants = WantSet::in_memory(10);
        ids.want(&wants);
        assert!(wants.iter().eq([0, 1, 2, 3, 7, 9]));
    }

    #[test]
    fn all_and_none() {
        let wants = WantSet::in_memory(10);
        "all".parse::<Ids>().unwrap().want(&wants);
        assert_eq!(wants.count(), 10);
        assert_eq!("none".parse::<Ids>().unwrap(), Ids::Listed(Vec::new()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "5-3", "-1", "1,,2", "x", "4294967296", "1-2-3"] {
            assert!(text.parse::<Ids>().is_err(), "{text:?}");
        }
    }
}
