//! The form of a value: which ones are legal, how the rule reads, and what is nearest to an illegal one.

use crate::key::Table;

/// Bytes of the longest name: the tables in a control area hold 28 with at least one zero.
pub const NAME_BYTES_MAX: usize = 27;
/// Bytes of a cache line, the unit of a buffer stride.
pub const CACHE_LINE_BYTES: u32 = 64;

/// Which numbers between the limits are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every one.
    One,
    /// Powers of two.
    PowerOfTwo,
    /// Odd multiples of a cache line.
    OddCacheLines,
}

/// A whole number within limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Smallest legal value.
    pub min: u32,
    /// Largest legal value.
    pub max: u32,
    /// Which ones in between.
    pub step: Step,
}

/// The form of a value.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A name that others refer to.
    Name,
    /// A string; the text says which.
    Text(&'static str),
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number(Number),
    /// One of these words.
    Word(&'static [&'static str]),
    /// The name of one of these nouns.
    Reference(&'static [&'static str]),
    /// A hop of a path: the name of a service, or two NICs of an untrusted VM.
    Hop,
    /// A list.
    List {
        /// The form of each value.
        of: &'static Form,
        /// Fewest values.
        min: usize,
        /// Most values.
        max: usize,
    },
    /// A table of strings; the text says which.
    Texts(&'static str),
    /// A number or a string; the text says which strings.
    NumberOrText(Number, &'static str),
    /// A table.
    Table(&'static Table),
    /// A list of tables.
    Tables {
        /// The keys of each.
        of: &'static Table,
        /// Fewest tables.
        min: usize,
        /// Most tables.
        max: usize,
    },
}

impl Number {
    /// Every number between the limits.
    #[must_use]
    pub const fn between(min: u32, max: u32) -> Self {
        Self { min, max, step: Step::One }
    }

    /// The powers of two between the limits, which are powers of two themselves.
    #[must_use]
    pub const fn power_of_two(min: u32, max: u32) -> Self {
        Self { min, max, step: Step::PowerOfTwo }
    }

    /// The number, if it is legal.
    #[must_use]
    pub fn check(&self, found: i64) -> Option<u32> {
        let number = u32::try_from(found).ok()?;
        let stepped = match self.step {
            Step::One => true,
            Step::PowerOfTwo => number.is_power_of_two(),
            Step::OddCacheLines => {
                number.is_multiple_of(CACHE_LINE_BYTES) && !number.is_multiple_of(2 * CACHE_LINE_BYTES)
            }
        };
        (stepped && (self.min..=self.max).contains(&number)).then_some(number)
    }

    /// The legal values on both sides of an illegal one, smallest first; a legal one by itself.
    #[must_use]
    pub fn nearest(&self, found: i64) -> Vec<u32> {
        if let Some(legal) = self.check(found) {
            return vec![legal];
        }
        let Ok(number) = u32::try_from(found.max(0)) else {
            return vec![self.max];
        };
        if number <= self.min {
            return vec![self.min];
        }
        if number >= self.max {
            return vec![self.max];
        }
        match self.step {
            Step::One => vec![number],
            Step::PowerOfTwo => {
                let above = number.next_power_of_two();
                vec![above / 2, above]
            }
            Step::OddCacheLines => {
                let pair_bytes = 2 * CACHE_LINE_BYTES;
                let below = (number - CACHE_LINE_BYTES) / pair_bytes * pair_bytes + CACHE_LINE_BYTES;
                vec![below, below + pair_bytes]
            }
        }
    }

    fn rule(&self) -> String {
        let Self { min, max, step } = self;
        match step {
            Step::One => format!("must be a whole number from {min} to {max}"),
            Step::PowerOfTwo => format!("must be a power of two from {min} to {max}"),
            Step::OddCacheLines => {
                format!("must be an odd multiple of {CACHE_LINE_BYTES} from {min} to {max}")
            }
        }
    }
}

impl Form {
    /// The rule as a finding says it: "must be ...".
    #[must_use]
    pub fn rule(&self) -> String {
        match self {
            Self::Name => format!("must be 1 to {NAME_BYTES_MAX} characters of a-z, 0-9 and -"),
            Self::Text(what) | Self::Texts(what) => format!("must be {what}"),
            Self::Flag => String::from("must be true or false"),
            Self::Number(number) => number.rule(),
            Self::Word(words) => format!("must be {}", quoted_choice(words)),
            Self::Reference(nouns) => format!("must be the name of a {}", nouns.join(" or ")),
            Self::Hop => String::from("must be the name of a service, or vm.in>out through an untrusted VM"),
            Self::List { of, min, max } => {
                let each = of.rule();
                format!("must be a list of {} values, each {}", counts(*min, *max), strip_must_be(&each))
            }
            Self::NumberOrText(number, what) => format!("{} or {what}", number.rule()),
            Self::Table(table) => format!("must be a table {}", table.header),
            Self::Tables { of, min, max } => {
                format!("must be {} tables {}", counts(*min, *max), of.header)
            }
        }
    }
}

/// The rule without its verb, for use inside another sentence.
pub(crate) fn strip_must_be(rule: &str) -> &str {
    rule.strip_prefix("must be ").unwrap_or(rule)
}

fn counts(min: usize, max: usize) -> String {
    if min == 0 { format!("up to {max}") } else { format!("{min} to {max}") }
}

/// Whether this is a legal name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// The name that an illegal one was likely meant to be, if anything of it can be kept.
#[must_use]
pub fn nearest_name(text: &str) -> Option<String> {
    let kept: String = text
        .chars()
        .map(|character| character.to_ascii_lowercase())
        .map(|character| if matches!(character, '_' | ' ' | '.' | '/') { '-' } else { character })
        .filter(|character| matches!(character, 'a'..='z' | '0'..='9' | '-'))
        .take(NAME_BYTES_MAX)
        .collect();
    is_name(&kept).then_some(kept)
}

/// `"a", "b" or "c"`.
fn quoted_choice(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIDE: Number = Number { min: 2240, max: 65_472, step: Step::OddCacheLines };

    #[test]
    fn accepts_both_limits_and_refuses_one_beyond() {
        let number = Number::between(1, 32_768);
        assert_eq!(number.check(1), Some(1));
        assert_eq!(number.check(32_768), Some(32_768));
        assert_eq!(number.check(0), None);
        assert_eq!(number.check(32_769), None);
        assert_eq!(number.check(-1), None);
        assert_eq!(number.check(i64::MAX), None);
    }

    #[test]
    fn refuses_a_number_that_would_wrap_u32_into_the_limits() {
        assert_eq!(Number::between(1, 10).check((1_i64 << 32) + 5), None);
    }

    #[test]
    fn names_the_powers_of_two_on_both_sides() {
        let number = Number::power_of_two(2, 1024);
        assert_eq!(number.nearest(63), [32, 64]);
        assert_eq!(number.nearest(65), [64, 128]);
        assert_eq!(number.nearest(64), [64]);
        assert_eq!(number.nearest(1), [2]);
        assert_eq!(number.nearest(-5), [2]);
        assert_eq!(number.nearest(1025), [1024]);
        assert_eq!(number.nearest(i64::MAX), [1024]);
    }

    #[test]
    fn a_stride_is_an_odd_number_of_cache_lines() {
        assert_eq!(STRIDE.check(2368), Some(2368));
        assert_eq!(STRIDE.check(2304), None);
        assert_eq!(STRIDE.check(2369), None);
        assert_eq!(STRIDE.nearest(2304), [2240, 2368]);
        assert_eq!(STRIDE.nearest(2369), [2368, 2496]);
        assert_eq!(STRIDE.nearest(2048), [2240]);
    }

    #[test]
    fn what_is_nearest_is_legal() {
        for number in [STRIDE, Number::power_of_two(8, 32_768), Number::between(68, 9000)] {
            for found in (-70..70_000).filter(|&found| number.check(found).is_none()) {
                for near in number.nearest(found) {
                    assert_eq!(number.check(near.into()), Some(near), "nearest to {found}");
                }
            }
        }
    }

    #[test]
    fn a_name_has_up_to_27_bytes() {
        assert!(is_name("a"));
        assert!(is_name(&"a".repeat(27)));
        assert!(!is_name(&"a".repeat(28)));
        assert!(!is_name(""));
        assert!(!is_name("A"));
        assert!(!is_name("é"));
    }

    #[test]
    fn suggests_a_legal_spelling_of_a_name() {
        assert_eq!(nearest_name("My Port_1").as_deref(), Some("my-port-1"));
        assert_eq!(nearest_name(&"a".repeat(28)), Some("a".repeat(27)));
        assert_eq!(nearest_name("日本"), None);
    }
}
