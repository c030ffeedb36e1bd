//! Config templates: lines that are there only with certain flags, and placeholders.
//!
//! `@a+!b:rest` stands for `rest` where flag `a` is set and `b` is not. `$NAME` is replaced by its value.

/// Fills a template.
pub(crate) fn render(template: &str, flags: &[&str], values: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(template.len());
    for line in template.lines() {
        if let Some(line) = select(line, flags) {
            text.push_str(line);
            text.push('\n');
        }
    }
    // Longer names first: `$A` is the beginning of `$ADMIN`.
    let mut values: Vec<_> = values.iter().collect();
    values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, value) in values {
        text = text.replace(&format!("${name}"), value);
    }
    text
}

fn select<'a>(line: &'a str, flags: &[&str]) -> Option<&'a str> {
    let Some((condition, rest)) = line.strip_prefix('@').and_then(|line| line.split_once(':')) else {
        return Some(line);
    };
    let holds = |term: &str| match term.strip_prefix('!') {
        Some(flag) => !flags.contains(&flag),
        None => flags.contains(&term),
    };
    condition.split('+').all(holds).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, flags: &[&str], expected: &str) {
        let values = [("A", "1".to_owned()), ("ADMIN", "2".to_owned())];
        assert_eq!(render(template, flags, &values), expected);
    }

    #[test]
    fn lines_follow_the_flags() {
        let template = "all\n@tls:  tls\n@!tls:  plain\n@tls+h2:  both\n@tls+!h2:  tls alone";
        check(template, &[], "all\n  plain\n");
        check(template, &["tls"], "all\n  tls\n  tls alone\n");
        check(template, &["h2", "tls"], "all\n  tls\n  both\n");
    }

    #[test]
    fn the_longest_placeholder_wins() {
        check("$A $ADMIN:$A", &[], "1 2:1\n");
    }
}
