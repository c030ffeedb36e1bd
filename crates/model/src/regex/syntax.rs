//! RE2's syntax, written again for the `regex` crate.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// The highest count of a repetition. Source: RE2 `max_repeat`.
const MOST_REPEATS: u32 = 1000;
/// Names of classes.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// Reads an expression as RE2 does.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut reader = Reader { rest: pattern.chars().peekable(), out: String::with_capacity(pattern.len()) };
    while let Some(c) = reader.rest.next() {
        match c {
            '\\' => reader.escape()?,
            '[' => reader.class()?,
            '(' => reader.group()?,
            '{' => reader.repeat()?,
            // White space and `#` mean themselves: RE2 has no verbose mode.
            c => reader.out.push(c),
        }
    }
    Ok(reader.out)
}

struct Reader<'p> {
    rest: Peekable<Chars<'p>>,
    out: String,
}

/// What stands behind a backslash.
enum Escape {
    /// One character.
    Char(char),
    /// Members of a class, without its brackets, and whether all others are meant.
    Class(&'static str, bool),
}

impl Reader<'_> {
    fn literal(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || !c.is_ascii() {
            self.out.push(c);
        } else {
            let _ = write!(self.out, "\\x{{{:x}}}", u32::from(c));
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        match self.rest.peek() {
            Some('b') => self.take(r"(?-u:\b)"),
            Some('B') => self.take(r"(?-u:\B)"),
            Some('A') => self.take(r"\A"),
            Some('z') => self.take(r"\z"),
            Some('C') => self.take("(?s-u:.)"),
            Some('Q') => self.quoted(),
            _ => match self.escaped()? {
                Escape::Char(c) => self.literal(c),
                Escape::Class(members, is_negated) => {
                    let _ = write!(self.out, "[{}{members}]", if is_negated { "^" } else { "" });
                }
            },
        }
        Ok(())
    }

    fn take(&mut self, written: &str) {
        self.rest.next();
        self.out.push_str(written);
    }

    /// `\Q…\E`, or to the end.
    fn quoted(&mut self) {
        self.rest.next();
        while let Some(c) = self.rest.next() {
            if c == '\\' && self.rest.peek() == Some(&'E') {
                self.rest.next();
                return;
            }
            self.literal(c);
        }
    }

    fn escaped(&mut self) -> Result<Escape, String> {
        let c = self.rest.next().ok_or("a backslash stands at the end")?;
        Ok(match c {
            'd' | 'D' => Escape::Class("0-9", c == 'D'),
            's' | 'S' => Escape::Class(r"\t\n\f\r ", c == 'S'),
            'w' | 'W' => Escape::Class("0-9A-Za-z_", c == 'W'),
            'a' => Escape::Char('\x07'),
            'f' => Escape::Char('\x0c'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            't' => Escape::Char('\t'),
            'v' => Escape::Char('\x0b'),
            'x' => Escape::Char(self.hexadecimal()?),
            '0' => Escape::Char(self.octal(0)?),
            '1'..='7' if matches!(self.rest.peek(), Some('0'..='7')) => {
                Escape::Char(self.octal(c.to_digit(8).unwrap_or(0))?)
            }
            'p' | 'P' => return Err("Unicode classes (`\\p`) are not supported".to_owned()),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Escape::Char(c),
            c => return Err(format!("`\\{c}` is not an escape of RE2")),
        })
    }

    fn hexadecimal(&mut self) -> Result<char, String> {
        let mut digits = String::new();
        if self.rest.next_if_eq(&'{').is_some() {
            for c in self.rest.by_ref().take_while(|c| *c != '}').take(8) {
                digits.push(c);
            }
        } else {
            digits.extend(self.rest.by_ref().take(2));
            if digits.len() != 2 {
                digits.clear();
            }
        }
        let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
        code.ok_or_else(|| "`\\x` needs two digits, or some in braces".to_owned())
    }

    fn octal(&mut self, mut code: u32) -> Result<char, String> {
        for _ in 0..2 {
            let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(8)) else { break };
            self.rest.next();
            code = code * 8 + digit;
        }
        char::from_u32(code).ok_or_else(|| "no such character".to_owned())
    }

    /// Groups, and flags: RE2 knows `i`, `m`, `s` and `U`.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.out.push('?');
        while let Some(c) = self.rest.next() {
            match c {
                'P' if self.rest.peek() == Some(&'<') => self.out.push('P'),
                '<' if !matches!(self.rest.peek(), Some('=' | '!')) => return self.name(),
                'i' | 'm' | 's' | 'U' | '-' => self.out.push(c),
                ':' | ')' => {
                    self.out.push(c);
                    return Ok(());
                }
                c => return Err(format!("`(?{c}` is not supported")),
            }
        }
        Err("a group is not closed".to_owned())
    }

    fn name(&mut self) -> Result<(), String> {
        self.out.push('<');
        for c in self.rest.by_ref() {
            self.out.push(c);
            match c {
                '>' => return Ok(()),
                c if c.is_alphanumeric() || c == '_' => {}
                _ => break,
            }
        }
        Err("a group's name is letters, digits and `_`".to_owned())
    }

    /// `{n}`, `{n,}` or `{n,m}`; any other brace means itself.
    fn repeat(&mut self) -> Result<(), String> {
        let inside: String = self.rest.clone().take_while(|c| *c != '}').take(12).collect();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_closed = self.rest.clone().nth(inside.chars().count()) == Some('}');
        let (least, most) = inside.split_once(',').unwrap_or((&inside, &inside));
        if !is_closed || !is_number(least) || !(most.is_empty() || is_number(most)) {
            self.out.push_str(r"\{");
            return Ok(());
        }
        if [least, most].iter().any(|n| n.parse::<u32>().is_ok_and(|n| n > MOST_REPEATS)) || inside.len() > 9
        {
            return Err(format!("a repetition counts to {MOST_REPEATS} at most"));
        }
        let _ = write!(self.out, "{{{inside}}}");
        self.rest.by_ref().take(inside.len() + 1).for_each(drop);
        Ok(())
    }

    /// A class: single characters, ranges, escapes and POSIX names; nothing within it is a set of its own.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let c = self.rest.next().ok_or("a class is not closed")?;
            match c {
                ']' if !is_first => break,
                '[' if self.rest.peek() == Some(&':') => self.posix()?,
                _ => self.member(c)?,
            }
            is_first = false;
        }
        self.out.push(']');
        Ok(())
    }

    /// A character, or a range of them.
    fn member(&mut self, first: char) -> Result<(), String> {
        let low = match self.single(first)? {
            Escape::Char(c) => c,
            Escape::Class(members, is_negated) => {
                let _ = write!(self.out, "[{}{members}]", if is_negated { "^" } else { "" });
                return Ok(());
            }
        };
        self.literal(low);
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('-') || matches!(ahead.peek(), None | Some(']')) {
            return Ok(());
        }
        self.rest.next();
        let next = self.rest.next().ok_or("a class is not closed")?;
        let Escape::Char(high) = self.single(next)? else { return Err("a range ends in a class".to_owned()) };
        if high < low {
            return Err(format!("the range `{low}-{high}` is empty"));
        }
        self.out.push('-');
        self.literal(high);
        Ok(())
    }

    fn single(&mut self, c: char) -> Result<Escape, String> {
        if c == '\\' { self.escaped() } else { Ok(Escape::Char(c)) }
    }

    fn posix(&mut self) -> Result<(), String> {
        let mut name = String::from("[");
        for c in self.rest.by_ref().take(12) {
            name.push(c);
            if c == ']' {
                break;
            }
        }
        let inside = name.strip_prefix("[:").and_then(|name| name.strip_suffix(":]")).unwrap_or_default();
        if !POSIX.contains(&inside.strip_prefix('^').unwrap_or(inside)) {
            return Err(format!("`{name}` is not a class"));
        }
        self.out.push_str(&name);
        Ok(())
    }
}
