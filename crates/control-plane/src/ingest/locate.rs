//! Where a field stands, for problems that are found when no text is at hand any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::problem::{Place, Problem};

use super::library::Piece;
use super::yaml::{self, Node, Value};

/// The largest text that is read once more for the sake of places.
const MAX_BYTES: usize = 512 << 10;

/// Moves each problem from its resource's name to its field, or to the deepest part of the field's path that is there.
pub(super) fn at_fields(problems: &mut [Problem], pieces: &BTreeMap<Arc<str>, Arc<Piece>>) {
    let mut by_file: BTreeMap<String, Vec<&mut Problem>> = BTreeMap::new();
    for problem in
        problems.iter_mut().filter(|problem| problem.place.is_some() && problem.field != "metadata.name")
    {
        by_file.entry(problem.file.clone()).or_default().push(problem);
    }
    for (file, problems) in by_file {
        let text = pieces.get(&*file).and_then(|piece| piece.text.as_ref());
        let Some(text) = text.filter(|text| text.len() <= MAX_BYTES) else { continue };
        let resources = resources(text);
        for problem in problems {
            let name = problem.place.map(|place| place.start);
            let resource = resources.iter().find(|(at, _)| Some(*at) == name);
            if let Some((_, root)) = resource {
                problem.place = place_of(root, &problem.field).or(problem.place);
            }
        }
    }
}

/// The resources of a text, each with where its name begins.
fn resources(text: &str) -> Vec<(usize, Node)> {
    let documents = yaml::parse(text).unwrap_or_default();
    let mut found = Vec::new();
    for document in documents {
        match name_of(&document) {
            Some(at) => found.push((at, document)),
            None => found.extend(of_list(document)),
        }
    }
    found
}

/// The resources of a `List`.
fn of_list(document: Node) -> Vec<(usize, Node)> {
    let Value::Map(entries) = document.value else { return Vec::new() };
    let lists = entries.into_iter().map(|(_, value)| value.value);
    let items = lists.filter_map(|value| if let Value::List(items) = value { Some(items) } else { None });
    items.flatten().filter_map(|item| Some((name_of(&item)?, item))).collect()
}

fn name_of(resource: &Node) -> Option<usize> {
    Some(below(below(resource, "metadata")?.1, "name")?.1.place.start)
}

/// The field of a mapping: its key, and its value.
fn below<'n>(node: &'n Node, name: &str) -> Option<(&'n Node, &'n Node)> {
    let Value::Map(entries) = &node.value else { return None };
    let is_it = |(key, _): &&(Node, Node)| matches!(&key.value, Value::Text(text) if text == name);
    entries.iter().find(is_it).map(|(key, value)| (key, value))
}

/// The place of `spec.rules[0].matches`; of its key, where it is one.
fn place_of(root: &Node, field: &str) -> Option<Place> {
    let (mut node, mut place) = (root, None);
    for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
        let Some((at, next)) = step_into(node, step) else { break };
        (node, place) = (next, Some(at));
    }
    place
}

/// What is below, by a field's name or as `0]`, and where that stands.
fn step_into<'n>(node: &'n Node, step: &str) -> Option<(Place, &'n Node)> {
    if let Some(index) = step.strip_suffix(']') {
        let Value::List(items) = &node.value else { return None };
        let item = items.get(index.parse::<usize>().ok()?)?;
        return Some((item.place, item));
    }
    let (key, value) = below(node, step)?;
    Some((key.place, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_path() {
        let text = "kind: X\nmetadata: { name: a }\nspec:\n  rules:\n    - matches: []\n    - { name: b }\n";
        let resources = resources(text);
        let (at, root) = &resources[0];
        assert_eq!(&text[*at..=*at], "a");
        let check = |field: &str, expected: Option<(usize, usize)>| {
            assert_eq!(place_of(root, field).map(|place| (place.line, place.column)), expected, "{field}");
        };
        check("spec", Some((3, 1)));
        check("spec.rules[0].matches", Some((5, 7)));
        check("spec.rules[1].name", Some((6, 9)));
        // What is not there is what it would be in.
        check("spec.rules[1].filters[0]", Some((6, 7)));
        check("status", None);
    }

    #[test]
    fn resources_of_a_list_are_found() {
        let text = "kind: List\nitems:\n  - metadata: { name: a }\n  - metadata: { name: b }\n";
        assert_eq!(resources(text).len(), 2);
    }
}
