//! Access logs, and the formats and filters that other words for answers have in common with them.

use meshwork_model::format::Json;
use meshwork_model::proxy::{
    AccessLog, AppendAction, Comparison, Format, FormatBody, LocalReplies, LogFilter, LogSink, ReplyHeader,
    ReplyMapper,
};

use super::route::header;
use super::terms::{header_value, share};
use super::{number, pack};
use crate::pb;

/// Where Envoy, which insists on a key, would look up another share of requests.
const SHARE_KEY: &str = "access_log.share";
/// A command that Envoy knows where an extension is asked for.
const WITHOUT_QUERY: &str = "%REQ_WITHOUT_QUERY(";
/// That extension.
const REQ_WITHOUT_QUERY: &str = "envoy.formatter.req_without_query";

/// The logs of a connection.
pub(super) fn access_logs(logs: &[AccessLog]) -> Vec<pb::accesslog::AccessLog> {
    logs.iter().map(access_log).collect()
}

fn access_log(log: &AccessLog) -> pb::accesslog::AccessLog {
    use pb::{file_access_log as file, stderr_access_log as stderr, stdout_access_log as stdout};
    let asked = format(&log.format);
    let (name, config) = match &log.sink {
        LogSink::File(path) => {
            let config = pb::FileAccessLog {
                path: path.to_string(),
                access_log_format: Some(file::AccessLogFormat::LogFormat(asked)),
            };
            ("envoy.access_loggers.file", pack(&config))
        }
        LogSink::Stdout => {
            let access_log_format = Some(stdout::AccessLogFormat::LogFormat(asked));
            ("envoy.access_loggers.stdout", pack(&pb::StdoutAccessLog { access_log_format }))
        }
        LogSink::Stderr => {
            let access_log_format = Some(stderr::AccessLogFormat::LogFormat(asked));
            ("envoy.access_loggers.stderr", pack(&pb::StderrAccessLog { access_log_format }))
        }
    };
    pb::accesslog::AccessLog {
        name: name.to_owned(),
        filter: log.filter.as_ref().map(filter),
        config_type: Some(pb::accesslog::access_log::ConfigType::TypedConfig(config)),
    }
}

fn format(format: &Format) -> pb::core::SubstitutionFormatString {
    use pb::core::substitution_format_string::Format as Kind;
    let mut extended = false;
    let kind = match &format.body {
        FormatBody::Text(template) => {
            let text = template.as_written().into_owned();
            extended = text.contains(WITHOUT_QUERY);
            Kind::TextFormatSource(inline(text))
        }
        FormatBody::Json(Json::Object(members)) => Kind::JsonFormat(object(members, &mut extended)),
        FormatBody::Json(_) => Kind::JsonFormat(pb::Struct::default()),
    };
    let formatter = || pb::core::TypedExtensionConfig {
        name: REQ_WITHOUT_QUERY.to_owned(),
        typed_config: Some(pack(&pb::ReqWithoutQuery {})),
    };
    pb::core::SubstitutionFormatString {
        omit_empty_values: format.omit_empty,
        content_type: format.content_type.as_deref().unwrap_or_default().to_owned(),
        formatters: extended.then(formatter).into_iter().collect(),
        format: Some(kind),
        ..pb::core::SubstitutionFormatString::default()
    }
}

fn inline(text: String) -> pb::core::DataSource {
    pb::core::DataSource {
        specifier: Some(pb::core::data_source::Specifier::InlineString(text)),
        ..pb::core::DataSource::default()
    }
}

/// An object of format strings; `extended` is set where one of them has a command of an extension.
fn object(members: &[(Box<str>, Json)], extended: &mut bool) -> pb::Struct {
    let fields = members.iter().map(|(name, member)| (name.to_string(), value(member, extended)));
    pb::Struct { fields: fields.collect() }
}

fn value(json: &Json, extended: &mut bool) -> pb::Value {
    use pb::value::Kind;
    let kind = match json {
        Json::Text(template) => {
            let text = template.as_written().into_owned();
            *extended |= text.contains(WITHOUT_QUERY);
            Kind::StringValue(text)
        }
        Json::Constant(text) => match &**text {
            "true" => Kind::BoolValue(true),
            "false" => Kind::BoolValue(false),
            number => number.parse().map_or(Kind::NullValue(0), Kind::NumberValue),
        },
        Json::Object(members) => Kind::StructValue(object(members, extended)),
        Json::List(items) => {
            let values = items.iter().map(|item| value(item, extended)).collect();
            Kind::ListValue(pb::ListValue { values })
        }
    };
    pb::Value { kind: Some(kind) }
}

/// Which requests are meant.
fn filter(filter: &LogFilter) -> pb::accesslog::AccessLogFilter {
    use pb::accesslog::access_log_filter::FilterSpecifier as Kind;
    let kind = match filter {
        LogFilter::Status(op, than) => Kind::StatusCodeFilter(pb::accesslog::StatusCodeFilter {
            comparison: Some(comparison(*op, *than)),
        }),
        LogFilter::Duration(op, than) => {
            Kind::DurationFilter(pb::accesslog::DurationFilter { comparison: Some(comparison(*op, *than)) })
        }
        LogFilter::NotHealthCheck => Kind::NotHealthCheckFilter(pb::accesslog::NotHealthCheckFilter {}),
        LogFilter::Traceable => Kind::TraceableFilter(pb::accesslog::TraceableFilter {}),
        LogFilter::Share(fraction) => Kind::RuntimeFilter(pb::accesslog::RuntimeFilter {
            runtime_key: SHARE_KEY.to_owned(),
            percent_sampled: Some(share(*fraction)),
            ..pb::accesslog::RuntimeFilter::default()
        }),
        // A list has two at least.
        LogFilter::All(filters) | LogFilter::Any(filters) if filters.len() == 1 => {
            return filters.first().map(self::filter).unwrap_or_default();
        }
        LogFilter::All(filters) => Kind::AndFilter(pb::accesslog::AndFilter { filters: several(filters) }),
        LogFilter::Any(filters) => Kind::OrFilter(pb::accesslog::OrFilter { filters: several(filters) }),
        LogFilter::Header(test) => {
            Kind::HeaderFilter(pb::accesslog::HeaderFilter { header: Some(header(test)) })
        }
        LogFilter::Flags(flags) => Kind::ResponseFlagFilter(pb::accesslog::ResponseFlagFilter {
            flags: flags.iter().map(|flag| flag.short().to_owned()).collect(),
        }),
        LogFilter::GrpcStatus { statuses, exclude } => {
            Kind::GrpcStatusFilter(pb::accesslog::GrpcStatusFilter {
                statuses: (0..i32::try_from(u32::BITS).unwrap_or(0))
                    .filter(|bit| statuses >> bit & 1 == 1)
                    .collect(),
                exclude: *exclude,
            })
        }
        LogFilter::AtEnd(names_end) => {
            use pb::accesslog_data::AccessLogType::{DownstreamEnd, TcpConnectionEnd};
            Kind::LogTypeFilter(pb::accesslog::LogTypeFilter {
                types: vec![DownstreamEnd as i32, TcpConnectionEnd as i32],
                exclude: !names_end,
            })
        }
    };
    pb::accesslog::AccessLogFilter { filter_specifier: Some(kind) }
}

fn several(filters: &[LogFilter]) -> Vec<pb::accesslog::AccessLogFilter> {
    filters.iter().map(filter).collect()
}

fn comparison(comparison: Comparison, than: u64) -> pb::accesslog::ComparisonFilter {
    use pb::accesslog::comparison_filter::Op;
    let op = match comparison {
        Comparison::Equal => Op::Eq,
        Comparison::NotEqual => Op::Ne,
        Comparison::AtLeast => Op::Ge,
        Comparison::AtMost => Op::Le,
    };
    pb::accesslog::ComparisonFilter {
        op: op as i32,
        value: Some(pb::core::RuntimeUInt32 {
            default_value: u32::try_from(than).unwrap_or(u32::MAX),
            ..pb::core::RuntimeUInt32::default()
        }),
    }
}

/// Other words for answers that the proxy gives itself; `None` for its own.
pub(super) fn local_replies(replies: &LocalReplies) -> Option<pb::hcm::LocalReplyConfig> {
    (!replies.is_plain()).then(|| pb::hcm::LocalReplyConfig {
        mappers: replies.mappers.iter().map(mapper).collect(),
        body_format: replies.format.as_ref().map(format),
    })
}

fn mapper(mapper: &ReplyMapper) -> pb::hcm::ResponseMapper {
    pb::hcm::ResponseMapper {
        filter: Some(filter(&mapper.filter)),
        status_code: mapper.status.map(|status| number(status.into())),
        body: mapper.body.as_ref().map(|body| inline(body.to_string())),
        body_format_override: mapper.format.as_ref().map(format),
        headers_to_add: mapper.headers.iter().map(reply_header).collect(),
    }
}

fn reply_header(change: &ReplyHeader) -> pb::core::HeaderValueOption {
    use pb::core::header_value_option::HeaderAppendAction as Action;
    let action = match change.action {
        AppendAction::Append => Action::AppendIfExistsOrAdd,
        AppendAction::IfAbsent => Action::AddIfAbsent,
        AppendAction::Overwrite => Action::OverwriteIfExistsOrAdd,
        AppendAction::OverwriteIfExists => Action::OverwriteIfExists,
    };
    pb::core::HeaderValueOption {
        header: Some(header_value(&change.name, &change.value.as_written())),
        append_action: action as i32,
        keep_empty_value: change.keep_empty,
        ..pb::core::HeaderValueOption::default()
    }
}
