//! Other words for answers that the proxy gives itself.

use meshwork_model::format::Template;
use meshwork_model::proxy::{AppendAction, LocalReplies, ReplyHeader, ReplyMapper};

use super::access_log::{filter, format, inline_text};
use super::required;
use crate::path::{Path, Problems};
use crate::pb;

/// What is said in place of the proxy's own words.
pub(super) fn replies(
    message: &pb::hcm::LocalReplyConfig,
    at: &Path<'_>,
    problems: &mut Problems,
) -> LocalReplies {
    let body = message.body_format.as_ref();
    let format = body.and_then(|body| format(body, &at.field("body_format"), problems));
    let at = at.field("mappers");
    let each = message.mappers.iter().enumerate();
    let mappers = each.filter_map(|(index, message)| mapper(message, &at.index(index), problems)).collect();
    LocalReplies { mappers, format }
}

fn mapper(message: &pb::hcm::ResponseMapper, at: &Path<'_>, problems: &mut Problems) -> Option<ReplyMapper> {
    let Some(which) = &message.filter else { return problems.error(at, "the filter is missing", "") };
    let filter = filter(which, &at.field("filter"), problems)?;
    let status = match message.status_code {
        None => None,
        Some(pb::UInt32Value { value }) => match u16::try_from(value) {
            Ok(status @ 200..600) => Some(status),
            _ => {
                return problems.error(
                    &at.field("status_code"),
                    format!("{value} is not from 200 to 599"),
                    "",
                );
            }
        },
    };
    let body = match &message.body {
        None => None,
        Some(source) => Some(inline_text(source, &at.field("body"), problems)?.into()),
    };
    let format = match &message.body_format_override {
        None => None,
        Some(asked) => Some(format(asked, &at.field("body_format_override"), problems)?),
    };
    let path = at.field("headers_to_add");
    let each = message.headers_to_add.iter().enumerate();
    let headers =
        each.map(|(index, option)| header(option, &path.index(index), problems)).collect::<Option<_>>()?;
    Some(ReplyMapper { filter, status, body, format, headers })
}

fn header(
    message: &pb::core::HeaderValueOption,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<ReplyHeader> {
    use pb::core::header_value_option::HeaderAppendAction as Action;
    let path = at.field("header");
    let Some(header) = &message.header else { return problems.error(&path, "the header is missing", "") };
    let name = required(&header.key, &path.field("key"), problems)?.to_ascii_lowercase();
    if name.starts_with(':') || name == "host" {
        return problems.error(&path.field("key"), format!("`{name}` cannot be written"), "");
    }
    let value = match Template::parse(&header.value) {
        Ok(value) => value,
        Err(why) => return problems.error(&path.field("value"), why, ""),
    };
    #[expect(deprecated, reason = "files in use have it")]
    let append = message.append;
    let action = match (append, Action::try_from(message.append_action)) {
        (Some(pb::BoolValue { value: false }), _) | (None, Ok(Action::OverwriteIfExistsOrAdd)) => {
            AppendAction::Overwrite
        }
        (Some(_), _) | (None, Ok(Action::AppendIfExistsOrAdd)) => AppendAction::Append,
        (None, Ok(Action::AddIfAbsent)) => AppendAction::IfAbsent,
        (None, Ok(Action::OverwriteIfExists)) => AppendAction::OverwriteIfExists,
        (None, Err(_)) => return problems.error(&at.field("append_action"), "there is no such action", ""),
    };
    Some(ReplyHeader { name: name.into(), value, action, keep_empty: message.keep_empty_value })
}
