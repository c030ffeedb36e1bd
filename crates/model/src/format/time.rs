//! Times in words, as `START_TIME(%Y-%m-%d %H:%M:%S.%3f)` asks; in UTC.
//!
//! Source: Envoy `START_TIME`, C++ `strftime` as abseil's `FormatTime` reads it.

use std::time::Duration;

use super::digits;

/// A compiled format of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Constant(Box<str>),
    /// A number of a moment, at least so many digits wide, filled with this.
    Field(Field, usize, u8),
    /// Whole seconds since 1970.
    Epoch,
    /// So many digits of the second's fraction.
    Fraction(usize),
    /// Day of the week, month, in English, cut to this length.
    Weekday(usize),
    Month(usize),
    /// AM or PM.
    Half,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Year,
    ShortYear,
    Century,
    Month,
    Day,
    DayOfYear,
    Hour,
    Hour12,
    Minute,
    Second,
    /// Monday is 1.
    Weekday,
    /// Sunday is 0.
    WeekdayFromSunday,
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment by the calendar.
struct Moment {
    seconds: u64,
    nanos: u32,
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: u64,
}

impl TimeFormat {
    /// Compiles a format.
    ///
    /// # Errors
    /// The conversion that is not known, or a line break.
    pub fn parse(format: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            constant(&mut parts, &rest[..at]);
            rest = conversion(&mut parts, &rest[at + 1..])?;
        }
        constant(&mut parts, rest);
        Ok(Self { parts: parts.into() })
    }

    /// Appends a time, which is meant since the beginning of 1970.
    pub fn write(&self, since: Duration, out: &mut Vec<u8>) {
        let moment = Moment::of(since);
        for part in &self.parts {
            part.write(&moment, out);
        }
    }

    /// Appends a time as it is written where nothing else is asked for: `2026-01-31T23:59:59.123Z`.
    pub(super) fn write_default(since: Duration, out: &mut Vec<u8>) {
        let moment = Moment::of(since);
        let fields = [
            (Field::Year, 4, b'-'),
            (Field::Month, 2, b'-'),
            (Field::Day, 2, b'T'),
            (Field::Hour, 2, b':'),
            (Field::Minute, 2, b':'),
            (Field::Second, 2, b'.'),
        ];
        for (field, width, behind) in fields {
            padded(moment.field(field), width, b'0', out);
            out.push(behind);
        }
        padded(u64::from(moment.nanos / 1_000_000), 3, b'0', out);
        out.push(b'Z');
    }
}

fn constant(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Constant(text.into()));
    }
}

/// Compiles what stands behind a `%`; gives the rest.
fn conversion<'f>(parts: &mut Vec<Part>, text: &'f str) -> Result<&'f str, String> {
    let mut chars = text.chars();
    let first = chars.next();
    let rest = chars.as_str();
    let number = |field, width| Part::Field(field, width, b'0');
    let spaced = |field, width| Part::Field(field, width, b' ');
    let mut several = |format: &str| {
        let format = TimeFormat::parse(format)?;
        parts.extend(format.parts);
        Ok(rest)
    };
    let part = match first {
        Some('Y') => number(Field::Year, 1),
        Some('y') => number(Field::ShortYear, 2),
        Some('C') => number(Field::Century, 2),
        Some('m') => number(Field::Month, 2),
        Some('d') => number(Field::Day, 2),
        Some('e') => spaced(Field::Day, 2),
        Some('j') => number(Field::DayOfYear, 3),
        Some('H') => number(Field::Hour, 2),
        Some('I') => number(Field::Hour12, 2),
        Some('k') => spaced(Field::Hour, 2),
        Some('l') => spaced(Field::Hour12, 2),
        Some('M') => number(Field::Minute, 2),
        Some('S') => number(Field::Second, 2),
        Some('u') => number(Field::Weekday, 1),
        Some('w') => number(Field::WeekdayFromSunday, 1),
        Some('a') => Part::Weekday(3),
        Some('A') => Part::Weekday(usize::MAX),
        Some('b' | 'h') => Part::Month(3),
        Some('B') => Part::Month(usize::MAX),
        Some('p') => Part::Half,
        Some('s') => Part::Epoch,
        Some('f') => Part::Fraction(9),
        Some(width @ '1'..='9') if rest.starts_with('f') => {
            parts.push(Part::Fraction(width.to_digit(10).unwrap_or(9) as usize));
            return Ok(&rest[1..]);
        }
        Some('D' | 'x') => return several("%m/%d/%y"),
        Some('F') => return several("%Y-%m-%d"),
        Some('T' | 'X') => return several("%H:%M:%S"),
        Some('R') => return several("%H:%M"),
        Some('r') => return several("%I:%M:%S %p"),
        Some('c') => return several("%a %b %e %H:%M:%S %Y"),
        Some('Z') => Part::Constant("UTC".into()),
        Some('z') => Part::Constant("+0000".into()),
        Some('%') => Part::Constant("%".into()),
        Some('t') => Part::Constant("\t".into()),
        Some('E') => return extended(parts, rest),
        Some('n') => return Err("a time must not have a line break in it".into()),
        Some(other) => return Err(format!("the conversion %{other} of times is not supported")),
        None => return Err("a format of times ends with %".into()),
    };
    parts.push(part);
    Ok(rest)
}

/// Abseil's own conversions: `%E3S`, `%E3f`, `%Ez`, `%ET`.
fn extended<'f>(parts: &mut Vec<Part>, text: &'f str) -> Result<&'f str, String> {
    let unknown = || "only %E#S, %E#f, %E4Y, %Ez and %ET of %E are supported in times".to_owned();
    let (kind, rest) = text.split_at_checked(1).ok_or_else(unknown)?;
    match kind {
        "z" => constant(parts, "+00:00"),
        "T" => constant(parts, "T"),
        _ => {
            let width = kind.parse::<usize>().map_err(|_| unknown())?;
            let (kind, rest) = rest.split_at_checked(1).ok_or_else(unknown)?;
            match (kind, width) {
                ("S", 0..=9) => {
                    parts.push(Part::Field(Field::Second, 2, b'0'));
                    if width > 0 {
                        constant(parts, ".");
                        parts.push(Part::Fraction(width));
                    }
                }
                ("f", 1..=9) => parts.push(Part::Fraction(width)),
                ("Y", 4) => parts.push(Part::Field(Field::Year, 4, b'0')),
                _ => return Err(unknown()),
            }
            return Ok(rest);
        }
    }
    Ok(rest)
}

fn padded(number: u64, width: usize, fill: u8, out: &mut Vec<u8>) {
    let start = out.len();
    digits(number, out);
    for _ in out.len() - start..width {
        out.insert(start, fill);
    }
}

fn nth(names: &[&'static str], at: u64) -> &'static str {
    usize::try_from(at).ok().and_then(|at| names.get(at)).copied().unwrap_or_default()
}

// === impl Part ===

impl Part {
    fn write(&self, moment: &Moment, out: &mut Vec<u8>) {
        let mut name =
            |name: &str, most: usize| out.extend_from_slice(&name.as_bytes()[..name.len().min(most)]);
        match self {
            Self::Constant(text) => name(text, usize::MAX),
            Self::Weekday(most) => name(nth(&WEEKDAYS, moment.weekday), *most),
            Self::Month(most) => name(nth(&MONTHS, moment.month - 1), *most),
            Self::Half => name(if moment.field(Field::Hour) < 12 { "AM" } else { "PM" }, usize::MAX),
            Self::Field(field, width, fill) => padded(moment.field(*field), *width, *fill, out),
            Self::Epoch => digits(moment.seconds, out),
            Self::Fraction(width) => {
                let start = out.len();
                padded(moment.nanos.into(), 9, b'0', out);
                out.truncate(start + width);
            }
        }
    }
}

// === impl Moment ===

impl Moment {
    /// By the time since the beginning of 1970.
    fn of(since: Duration) -> Self {
        let days = since.as_secs() / 86_400;
        let weekday = (days + 4) % 7;
        // Years of this count begin in March, so that a leap day is the last of its year. Source: Howard Hinnant,
        // "chrono-compatible low-level date algorithms", civil_from_days.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let from_march = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = 400 * era + year_of_era + u64::from(month <= 2);
        let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let day_of_year = if month <= 2 { from_march - 305 } else { from_march + 60 + u64::from(is_leap) };
        Self { seconds: since.as_secs(), nanos: since.subsec_nanos(), year, month, day, day_of_year, weekday }
    }

    fn field(&self, field: Field) -> u64 {
        let hour = self.seconds / 3600 % 24;
        match field {
            Field::Year => self.year,
            Field::ShortYear => self.year % 100,
            Field::Century => self.year / 100,
            Field::Month => self.month,
            Field::Day => self.day,
            Field::DayOfYear => self.day_of_year,
            Field::Hour => hour,
            Field::Hour12 => (hour + 11) % 12 + 1,
            Field::Minute => self.seconds / 60 % 60,
            Field::Second => self.seconds % 60,
            Field::Weekday => (self.weekday + 6) % 7 + 1,
            Field::WeekdayFromSunday => self.weekday,
        }
    }
}
