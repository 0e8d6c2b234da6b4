//! Rates as operators write them: `5G`, `900M`, `2.5G` are bits a second.

use sender::control::RATE_CAP_BITS_PER_SECOND;

/// A rate in bits a second, parsed from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) bits_per_second: u64,
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || format!("{text:?} is not a rate; write bits a second like 5G, 2.5G or 900M");
        let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic() || character == '/');
        let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("bit/s").trim_end_matches("bps") {
            "" => 1.0,
            "k" => 1e3,
            "m" => 1e6,
            "g" => 1e9,
            _ => return Err(wrong()),
        };
        let bits_per_second = digits.parse::<f64>().map_err(|_| wrong())? * unit;
        // What is no number becomes 0, what is too large the largest.
        let bits_per_second = bits_per_second as u64;
        if !RATE_CAP_BITS_PER_SECOND.contains(&bits_per_second) {
            return Err(format!("{text} is outside 100k to 1000G"));
        }
        Ok(Rate { bits_per_second })
    }
}

/// `4.91 Gbit/s`.
pub(crate) fn display_rate(bits_per_second: f64) -> String {
    let (value, unit) = match bits_per_second {
        rate if rate >= 1e9 => (rate / 1e9, "Gbit/s"),
        rate if rate >= 1e6 => (rate / 1e6, "Mbit/s"),
        rate => (rate / 1e3, "kbit/s"),
    };
    format!("{value:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_operators_write_them() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.bits_per_second);
        assert_eq!(rate("5G"), Ok(5_000_000_000));
        assert_eq!(rate("2.5g"), Ok(2_500_000_000));
        assert_eq!(rate("900M"), Ok(900_000_000));
        assert_eq!(rate("100k"), Ok(100_000));
        assert_eq!(rate("1000000"), Ok(1_000_000));
        assert_eq!(rate("10Gbit/s"), Ok(10_000_000_000));
        assert_eq!(rate("10Gbps"), Ok(10_000_000_000));
    }

    #[test]
    fn what_is_no_rate_says_how_to_write_one() {
        for text in ["", "G", "5T", "five", "-5G", "5", "1e30", "NaN", "infG", "5 G", "5GB"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert!("5T".parse::<Rate>().unwrap_err().contains("2.5G"));
    }

    #[test]
    fn rates_are_shown_with_a_fitting_unit() {
        assert_eq!(display_rate(4_912_000_000.0), "4.91 Gbit/s");
        assert_eq!(display_rate(90_000_000.0), "90.00 Mbit/s");
        assert_eq!(display_rate(0.0), "0.00 kbit/s");
    }
}
