//! The one list of what may be wrong with config: stable codes, and words for each.

/// What kind of problem a [`super::Problem`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A value that does not say anything the mesh could do.
    Invalid,
    /// The text is not YAML.
    NotYaml,
    /// The text is too large, too deep, or grows too much by aliases.
    Bomb,
    /// The file or folder cannot be read.
    Unreadable,
    /// The kind, or its API version, is not known.
    UnknownKind,
    /// A field that the kind does not have.
    UnknownField,
    /// A field that the kind must have.
    MissingField,
    /// A value of another type than the field's.
    WrongType,
    /// A text that is none of the field's values.
    NotOneOf,
    /// Something that the kind has, and the mesh does not honour.
    Unsupported,
    /// More than there may be.
    OverLimit,
    /// A regular expression that is none, or is over a limit.
    Regex,
    /// Something that is not honoured, where all else keeps its meaning.
    NotHonoured,
    /// A reference to something that is not there.
    LeadsNowhere,
    /// A rule that never matches, since an earlier one takes all that it would.
    Shadowed,
    /// A policy or a service that selects nothing.
    SelectsNothing,
    /// The same thing twice.
    Duplicate,
    /// Two namespaces claim one host.
    ClaimedTwice,
    /// Two resources, or two fields, that contradict each other.
    Conflict,
    /// A reference into another namespace that nobody there has allowed.
    NotAllowed,
    /// A route on a port that speaks something else.
    WrongProtocol,
    /// A workload that the config does not fit.
    Workload,
    /// A message or a bootstrap file that a proxy refuses.
    Refused,
    /// The certificate authority needs somebody.
    Authority,
}

/// Everything that is said of a [`Code`].
#[derive(Clone, Copy, Debug)]
pub struct CodeWords {
    /// Stable code.
    pub code: &'static str,
    /// What it is, a few words.
    pub title: &'static str,
    /// How it comes about, one sentence.
    pub cause: &'static str,
    /// What to do about it, one sentence.
    pub fix: &'static str,
}

macro_rules! codes {
    ($($name:ident $code:literal $title:literal $cause:literal $fix:literal;)*) => {
        impl Code {
            /// Every code, in its order.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// Everything that is said of this code.
            pub const fn words(self) -> CodeWords {
                match self {
                    $(Code::$name => CodeWords { code: $code, title: $title, cause: $cause, fix: $fix },)*
                }
            }
        }
    };
}

codes! {
    Invalid "MW1000" "a value without meaning"
        "The value has the field's type, and still says nothing that the mesh could do."
        "Write what the message says was expected.";
    NotYaml "MW1001" "not YAML"
        "The text is neither YAML 1.2 nor JSON: an indentation, a quote or a bracket is wrong, or a key stands twice."
        "Mend the text where the caret is; what is wrong often stands one line above.";
    Bomb "MW1002" "too much of it"
        "The text is too large, nested too deep, or grows too much by its anchors and aliases, so reading stopped there."
        "Split the file, or write it with less nesting and without aliases.";
    Unreadable "MW1003" "cannot be read"
        "The file or folder is not there, may not be read, or is not UTF-8; or a folder has no .yaml file."
        "Correct the name, or the file's mode.";
    UnknownKind "MW1004" "no such kind"
        "The mesh knows no kind of this name, or not in this API version."
        "Correct `kind` and `apiVersion`; docs/config.md lists the kinds.";
    UnknownField "MW1005" "no such field"
        "The kind has no field of this name at this place: it is mistyped, or indented too far or too little."
        "Correct its name or its indentation; `meshwork schema KIND` lists the fields.";
    MissingField "MW1006" "a field is missing"
        "The kind must have this field, and it is not there or null."
        "Write it; `meshwork schema KIND` lists the fields.";
    WrongType "MW1007" "wrong type"
        "The value is of another type than the field's: YAML reads `1` and `true` as something else than text."
        "Write what was expected; put text that looks like a number in quotes.";
    NotOneOf "MW1008" "not one of the values"
        "The field takes one of a few values, and this is none of them; case counts."
        "Use one of the values in the message.";
    Unsupported "MW1009" "not supported"
        "The kind has this, but the mesh does not do it; passing over it would change what the rest means, so it is refused."
        "Take it out, or use what the message names in its place; docs/config.md says what is honoured.";
    OverLimit "MW1010" "over a limit"
        "There is more of this than there may be: each costs time or memory in every proxy concerned."
        "Write less of it, or split the resource.";
    Regex "MW1011" "a regular expression that is refused"
        "It is not in RE2's syntax, or its compiled form is over the limit, and would cost every request too much."
        "Write a smaller one; bounded repeats such as `{1,1000}` are what grows most.";
    NotHonoured "MW1012" "not honoured"
        "The kind has this, and the mesh does not do it; all else in the resource keeps its meaning, so only this is left out."
        "Take it out to be rid of the warning.";
    LeadsNowhere "MW1101" "leads nowhere"
        "A reference names something that is not in the config: another namespace, a typing error, or not applied yet."
        "Correct the name, or apply both together: one `meshwork apply` takes effect as a whole.";
    Shadowed "MW1102" "never reached"
        "An earlier rule matches all that this one would, so it never acts; which is earlier follows the kind's own precedence."
        "Make the earlier one narrower, or take one of them out.";
    SelectsNothing "MW1103" "selects nothing"
        "No workload has the labels, no service or host the name, so that the resource acts on nothing."
        "Correct the selector, or start the workload; the warning goes by itself then.";
    Duplicate "MW1104" "written twice"
        "The same resource, port, header or host is there already."
        "Rename or remove one of the two.";
    ClaimedTwice "MW1105" "claimed by two namespaces"
        "Two namespaces say what becomes of one host, and which of them acts would be left to chance."
        "Let one namespace own the host; the other can reach it without a claim of its own.";
    Conflict "MW1106" "a contradiction"
        "Two resources, or two fields of one, say different things of the same."
        "Keep one of them.";
    NotAllowed "MW1107" "not allowed by the other namespace"
        "A reference leads into another namespace, where no ReferenceGrant allows it."
        "Have the owner of that namespace write a ReferenceGrant, or refer to something of your own.";
    WrongProtocol "MW1108" "the port speaks something else"
        "A route is attached to, or leads to, a port whose protocol it cannot be for."
        "Set the port's `appProtocol`, or use the kind of route that fits.";
    Workload "MW1201" "a workload does not fit the config"
        "A workload is connected, and the config does not reach it as its labels or ports say it should."
        "Correct the workload's labels and ports, or the Service that should select it.";
    Refused "MW1301" "a proxy refuses this"
        "A bootstrap file, or a resource of a control plane, has something that the proxy does not honour or that is wrong."
        "Correct the field that the message names; docs/envoy-support.md lists what is honoured.";
    Authority "MW1401" "the certificate authority needs somebody"
        "A root or an intermediate ends soon, or a file of the authority cannot be read or written; when it has ended, nobody \
         gets a certificate any more."
        "Do what the message says; docs/rotation.md tells how roots are replaced under traffic.";
}

impl Code {
    /// The code with this name, such as `MW1005`; case counts nothing.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.words().code.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_well_formed_and_in_order() {
        let codes: Vec<_> = Code::ALL.iter().map(|c| c.words().code).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
        assert!(codes.iter().all(|c| c.len() == 6 && c.starts_with("MW1")));
    }

    #[test]
    fn a_code_is_found_by_its_name() {
        assert_eq!(Code::of("mw1005"), Some(Code::UnknownField));
        assert_eq!(Code::of("MW9999"), None);
    }
}
