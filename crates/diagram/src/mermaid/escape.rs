//! Makes text from config harmless in Mermaid: labels, the title, identifiers.
//!
//! Labels become HTML in the reader's page, behind Mermaid's own syntax; so all but plain letters, digits and a few
//! marks is written as Mermaid's numeric entities (`#60;` for `<`), which neither reads as its own.

use std::collections::HashSet;
use std::fmt::Write as _;

/// Characters of one text from config that are shown: a Kubernetes name has at most 63; a longer one would make its
/// node wider than its neighbours.
const LABEL_CHARACTERS: usize = 40;

/// Characters of the title: about what fits over a picture of a README's width.
const TITLE_CHARACTERS: usize = 140;

/// Characters of an identifier before the number that makes it unique; nobody reads more.
const ID_CHARACTERS: usize = 48;

/// Writes a text for the inside of a quoted label.
pub(super) fn label(text: &str) -> String {
    shortened(text, LABEL_CHARACTERS).chars().fold(String::new(), |mut out, c| {
        if is_plain(c) {
            out.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "#{};", u32::from(c));
        }
        out
    })
}

/// Writes a text for the inside of the double-quoted YAML string of the title, which Mermaid shows as it stands: a
/// character that YAML or Mermaid would read is replaced.
pub(super) fn title(text: &str) -> String {
    shortened(text, TITLE_CHARACTERS).chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}

/// Returns the visible characters of a text, cut to a number of them; whitespace becomes single spaces.
fn shortened(text: &str, limit: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let visible = |c: &char| !c.is_control() && !is_invisible(*c);
    let mut characters: Vec<char> = words.join(" ").chars().filter(visible).take(limit + 1).collect();
    if characters.len() > limit {
        characters.truncate(limit - 1);
        characters.push('…');
    }
    characters.into_iter().collect()
}

/// Whether a character is neither Mermaid's, nor HTML's, nor YAML's, nor Markdown's.
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, ' ' | '-' | '.' | ',' | ':' | '/' | '(' | ')' | '·' | '×' | '…' | '+')
}

/// Whether a character changes its neighbours' order or shows nothing: zero-width and bidirectional marks, tags.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Hands out identifiers, each one once.
#[derive(Default)]
pub(super) struct Identifiers {
    taken: HashSet<String>,
}

impl Identifiers {
    /// Returns an identifier that tells of the given texts; the second one asked for the same texts gets a number.
    ///
    /// It contains ASCII letters, digits and underscores, and starts with `prefix_`: none is a word of Mermaid's.
    pub(super) fn make(&mut self, prefix: &str, texts: &[&str]) -> String {
        let told = texts.join("_");
        let body = told.chars().take(ID_CHARACTERS).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
        let wanted: String = prefix.chars().chain(['_']).chain(body).collect();
        let numbered = (2_usize..).map(|n| format!("{wanted}_{n}"));
        let free = std::iter::once(wanted.clone()).chain(numbered).find(|id| !self.taken.contains(id));
        let id = free.unwrap_or(wanted);
        self.taken.insert(id.clone());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(label(input), expected, "{input:?}");
    }

    #[test]
    fn labels_keep_plain_text_and_escape_the_rest() {
        check("catalog-v1", "catalog-v1");
        check("127.0.0.1:9000", "127.0.0.1:9000");
        check("Ångström 日本", "Ångström 日本");
        check("end", "end");
        check(r#"a"b"#, "a#34;b");
        check("<b>x</b>", "#60;b#62;x#60;/b#62;");
        check("[x] {y} |z|", "#91;x#93; #123;y#125; #124;z#124;");
        check("`md` **b** _i_", "#96;md#96; #42;#42;b#42;#42; #95;i#95;");
        check("#35;&amp;", "#35;35#59;#38;amp#59;");
        check("%%{init: {}}%%", "#37;#37;#123;init: #123;#125;#125;#37;#37;");
        check("a\nb\r\n\tc", "a b c");
        check("a\u{202e}b\u{200b}c\u{0}", "abc");
        check("😀", "#128512;");
        check("", "");
    }

    #[test]
    fn long_labels_are_cut() {
        check(&"x".repeat(40), &"x".repeat(40));
        check(&"x".repeat(41), &format!("{}…", "x".repeat(39)));
        check(&"x".repeat(1_000_000), &format!("{}…", "x".repeat(39)));
    }

    #[test]
    fn titles_replace_what_is_not_plain() {
        assert_eq!(title("mesh \"x\"\n--- \\ #1;"), "mesh ?x? --- ? ?1?");
    }

    #[test]
    fn identifiers_are_unique_and_safe() {
        let mut ids = Identifiers::default();
        assert_eq!(ids.make("app", &["shop", "catalog-v1"]), "app_shop_catalog_v1");
        assert_eq!(ids.make("app", &["shop-catalog", "v1"]), "app_shop_catalog_v1_2");
        assert_eq!(ids.make("app", &["shop", "catalog v1"]), "app_shop_catalog_v1_3");
        assert_eq!(ids.make("app", &["end", "日本\"]"]), "app_end_____");
    }
}
