use std::fmt::Write as _;
use std::path::Path as FilePath;

use super::*;

#[test]
fn every_row_names_a_field_that_exists() {
    for accepted in table::accepted() {
        let descriptor = descriptors::message(accepted.message).expect(accepted.message);
        for field in accepted.fields {
            let found = descriptor.get_field_by_name(field.name);
            assert!(found.is_some(), "{}.{}", accepted.message, field.name);
        }
    }
}

#[test]
fn a_message_stands_once() {
    let mut seen = std::collections::HashSet::new();
    for accepted in table::accepted() {
        assert!(seen.insert(accepted.message), "{} stands twice", accepted.message);
    }
}

#[test]
fn every_message_that_an_honoured_field_holds_is_accepted() {
    for row in table().filter(|row| row.support == Support::Honoured) {
        let field = descriptors::message(&row.message).and_then(|m| m.get_field_by_name(&row.field));
        if let Some(nested) = field.as_ref().and_then(walks_into) {
            assert!(is_accepted(&nested), "{}.{} holds {nested}", row.message, row.field);
        }
    }
}

#[test]
fn harmless_fields_say_why() {
    for row in table().filter(|row| row.support == Support::Harmless) {
        assert!(!row.note.is_empty(), "{}.{}", row.message, row.field);
    }
}

const INTRODUCTION: &str = "\
# What of Envoy's configuration is supported

A config comes from a bootstrap file or by xDS; both are judged by the same table. What is set in a message is
*honoured* (it means what it means to Envoy), *harmless* (it is accepted and has no effect here, for the reason given),
or *refused*: the error names the field, and the file with its line. A field or message that is not listed is refused.
";

fn documentation() -> String {
    let mut text = INTRODUCTION.to_owned();
    for accepted in table::accepted() {
        write!(text, "\n## {}\n\n", accepted.message).unwrap();
        let said = |row: &Row| row.support != Support::Refused || !row.note.is_empty();
        let rows: Vec<Row> = table().filter(|row| row.message == accepted.message).filter(said).collect();
        text.push_str(if rows.is_empty() { "Without fields.\n" } else { "| Field | | |\n|---|---|---|\n" });
        for row in rows {
            let support = match row.support {
                Support::Honoured => "honoured",
                Support::Harmless => "harmless",
                Support::Refused => "refused",
            };
            writeln!(text, "| `{}` | {support} | {} |", row.field, row.note).unwrap();
        }
    }
    text
}

#[test]
fn the_documentation_says_what_the_table_says() {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/envoy-support.md");
    let expected = documentation();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let actual = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == expected, "docs/envoy-support.md is old; `cargo xtask gen` renews it");
}
