//! Access logs that the config asks for, and the formats and filters that local replies have in common with them.

use meshwork_model::flag::{Flag, Flags};
use meshwork_model::format::{Json, Template};
use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{AccessLog, Comparison, Format, FormatBody, LogFilter, LogSink};

use super::{is, required, route, unpack};
use crate::path::{Path, Problems};
use crate::pb;

/// What a line says where nothing is asked for. Source: Envoy, "Default format string".
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
     \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// The logs of a connection.
pub(super) fn logs(
    logs: &[pb::accesslog::AccessLog],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<AccessLog> {
    let each = logs.iter().enumerate();
    each.filter_map(|(index, message)| log(message, &at.index(index), problems)).collect()
}

fn log(message: &pb::accesslog::AccessLog, at: &Path<'_>, problems: &mut Problems) -> Option<AccessLog> {
    use pb::accesslog::access_log::ConfigType::TypedConfig;
    use pb::{file_access_log as file, stderr_access_log as stderr, stdout_access_log as stdout};
    let filter = match &message.filter {
        Some(message) => Some(filter(message, &at.field("filter"), problems)?),
        None => None,
    };
    let Some(TypedConfig(any)) = &message.config_type else {
        return problems.error(at, "the access log's type is missing", "write `typed_config`");
    };
    let typed = at.field("typed_config");
    let at = typed.field("log_format");
    let (sink, asked) = if let Some(log) = unpack::<pb::FileAccessLog>(any) {
        let path = required(&log.path, &typed.field("path"), problems)?;
        let format = match log.access_log_format {
            Some(file::AccessLogFormat::LogFormat(format)) => Some(format),
            _ => None,
        };
        (LogSink::File(path.into()), format)
    } else if is::<pb::StdoutAccessLog>(any) {
        let log = unpack::<pb::StdoutAccessLog>(any)?;
        let format = log.access_log_format.map(|stdout::AccessLogFormat::LogFormat(format)| format);
        (LogSink::Stdout, format)
    } else if is::<pb::StderrAccessLog>(any) {
        let log = unpack::<pb::StderrAccessLog>(any)?;
        let format = log.access_log_format.map(|stderr::AccessLogFormat::LogFormat(format)| format);
        (LogSink::Stderr, format)
    } else {
        return problems.error(
            &typed,
            "this access log is not supported",
            "write to a file, stdout or stderr",
        );
    };
    let format = match asked {
        Some(asked) => format(&asked, &at, problems)?,
        None => default_format(),
    };
    Some(AccessLog { sink, format, filter })
}

fn default_format() -> Format {
    let text = Template::parse(DEFAULT).unwrap_or_default();
    Format { body: FormatBody::Text(text), omit_empty: false, content_type: None }
}

/// A text with commands, or an object of them.
pub(super) fn format(
    message: &pb::core::SubstitutionFormatString,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Format> {
    use pb::core::substitution_format_string::Format as Kind;
    let knows = extensions(message, at, problems)?;
    #[expect(deprecated, reason = "files in use have it")]
    let body = match &message.format {
        Some(Kind::TextFormat(text)) => {
            FormatBody::Text(template(text, knows, &at.field("text_format"), problems)?)
        }
        Some(Kind::TextFormatSource(source)) => {
            let at = at.field("text_format_source");
            FormatBody::Text(template(inline_text(source, &at, problems)?, knows, &at, problems)?)
        }
        Some(Kind::JsonFormat(object)) => {
            FormatBody::Json(json_object(object, knows, &at.field("json_format"), problems)?)
        }
        None => {
            return problems.error(
                at,
                "the format is missing",
                "write `text_format_source` or `json_format`",
            );
        }
    };
    let content_type = (!message.content_type.is_empty()).then(|| message.content_type.as_str().into());
    Some(Format { body, omit_empty: message.omit_empty_values, content_type })
}

/// Which commands are known beside those that always are.
#[derive(Clone, Copy)]
struct Knows {
    req_without_query: bool,
}

fn extensions(
    message: &pb::core::SubstitutionFormatString,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Knows> {
    let mut knows = Knows { req_without_query: false };
    for (index, extension) in message.formatters.iter().enumerate() {
        let known = extension.typed_config.as_ref().is_some_and(is::<pb::ReqWithoutQuery>);
        if !known {
            let at = at.field("formatters");
            return problems.error(&at.index(index), "this formatter is not supported", "");
        }
        knows.req_without_query = true;
    }
    Some(knows)
}

fn template(text: &str, knows: Knows, at: &Path<'_>, problems: &mut Problems) -> Option<Template> {
    if !knows.req_without_query && text.contains("%REQ_WITHOUT_QUERY(") {
        let fix = "list `envoy.formatter.req_without_query` among the `formatters`";
        return problems.error(at, "the command REQ_WITHOUT_QUERY is not known", fix);
    }
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(why) => problems.error(at, why, ""),
    }
}

/// A text that stands in the config itself.
pub(super) fn inline_text<'m>(
    source: &'m pb::core::DataSource,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<&'m str> {
    use pb::core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Some(text),
        Some(Specifier::InlineBytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(_) => problems.error(&at.field("inline_bytes"), "this is not UTF-8", ""),
        },
        _ => problems.error(at, "only inline text is supported here", "write `inline_string`"),
    }
}

fn json_object(object: &pb::Struct, knows: Knows, at: &Path<'_>, problems: &mut Problems) -> Option<Json> {
    let mut members = Vec::new();
    for (name, value) in &object.fields {
        members.push((Box::from(name.as_str()), json(value, knows, &at.key(name), problems)?));
    }
    Some(Json::object(members))
}

fn json(value: &pb::Value, knows: Knows, at: &Path<'_>, problems: &mut Problems) -> Option<Json> {
    use pb::value::Kind;
    Some(match &value.kind {
        Some(Kind::StringValue(text)) => Json::Text(template(text, knows, at, problems)?),
        Some(Kind::StructValue(object)) => json_object(object, knows, at, problems)?,
        Some(Kind::ListValue(list)) => {
            let mut items = Vec::new();
            for (index, item) in list.values.iter().enumerate() {
                items.push(json(item, knows, &at.index(index), problems)?);
            }
            Json::List(items)
        }
        Some(Kind::NumberValue(number)) if number.is_finite() => Json::Constant(number.to_string().into()),
        Some(Kind::BoolValue(value)) => Json::Constant(value.to_string().into()),
        Some(Kind::NumberValue(_)) => return problems.error(at, "this is no number of JSON", ""),
        Some(Kind::NullValue(_)) | None => Json::Constant("null".into()),
    })
}

/// Which requests are meant.
pub(super) fn filter(
    message: &pb::accesslog::AccessLogFilter,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<LogFilter> {
    use pb::accesslog::access_log_filter::FilterSpecifier as Kind;
    Some(match &message.filter_specifier {
        Some(Kind::StatusCodeFilter(status)) => {
            let (comparison, value) = comparison(status.comparison.as_ref(), at, problems)?;
            LogFilter::Status(comparison, value)
        }
        Some(Kind::DurationFilter(duration)) => {
            let (comparison, value) = comparison(duration.comparison.as_ref(), at, problems)?;
            LogFilter::Duration(comparison, value)
        }
        Some(Kind::NotHealthCheckFilter(_)) => LogFilter::NotHealthCheck,
        Some(Kind::TraceableFilter(_)) => LogFilter::Traceable,
        Some(Kind::RuntimeFilter(share)) => LogFilter::Share(fraction(share.percent_sampled.as_ref())),
        Some(Kind::AndFilter(all)) => {
            LogFilter::All(several(&all.filters, &at.field("and_filter"), problems)?)
        }
        Some(Kind::OrFilter(any)) => LogFilter::Any(several(&any.filters, &at.field("or_filter"), problems)?),
        Some(Kind::HeaderFilter(header)) => {
            let at = at.field("header_filter");
            let at = at.field("header");
            let Some(header) = &header.header else {
                return problems.error(&at, "the header is missing", "");
            };
            LogFilter::Header(route::header(header, &at, problems)?)
        }
        Some(Kind::ResponseFlagFilter(flags)) => {
            let at = at.field("response_flag_filter");
            let at = at.field("flags");
            let mut all = Flags::NONE;
            for (index, name) in flags.flags.iter().enumerate() {
                match Flag::of_short(name) {
                    Some(flag) => all.insert(flag),
                    None => {
                        return problems.error(&at.index(index), format!("there is no flag `{name}`"), "");
                    }
                }
            }
            LogFilter::Flags(all)
        }
        Some(Kind::GrpcStatusFilter(status)) => {
            let bit = |status: &i32| {
                u32::try_from(*status).ok().and_then(|bit| 1_u32.checked_shl(bit)).unwrap_or(0)
            };
            let statuses = status.statuses.iter().fold(0, |all, status| all | bit(status));
            LogFilter::GrpcStatus { statuses, exclude: status.exclude }
        }
        Some(Kind::LogTypeFilter(types)) => {
            use pb::accesslog_data::AccessLogType::{DownstreamEnd, TcpConnectionEnd};
            let names_end =
                types.types.iter().any(|kind| [DownstreamEnd as i32, TcpConnectionEnd as i32].contains(kind));
            LogFilter::AtEnd(names_end != types.exclude)
        }
        Some(Kind::ExtensionFilter(_) | Kind::MetadataFilter(_)) | None => {
            return problems.error(at, "this filter of access logs is not supported", "");
        }
    })
}

fn several(
    filters: &[pb::accesslog::AccessLogFilter],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<LogFilter>> {
    let at = at.field("filters");
    let each = filters.iter().enumerate();
    each.map(|(index, message)| filter(message, &at.index(index), problems)).collect()
}

fn comparison(
    message: Option<&pb::accesslog::ComparisonFilter>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Comparison, u64)> {
    use pb::accesslog::comparison_filter::Op;
    let Some(message) = message else { return problems.error(at, "the comparison is missing", "") };
    let comparison = match Op::try_from(message.op) {
        Ok(Op::Eq) => Comparison::Equal,
        Ok(Op::Ge) => Comparison::AtLeast,
        Ok(Op::Le) => Comparison::AtMost,
        Ok(Op::Ne) => Comparison::NotEqual,
        Err(_) => return problems.error(at, "there is no such comparison", "write EQ, GE, LE or NE"),
    };
    let value = message.value.as_ref().map_or(0, |value| value.default_value);
    Some((comparison, value.into()))
}

/// A share without a runtime to look it up in; nothing said is nothing.
fn fraction(percent: Option<&pb::FractionalPercent>) -> Fraction {
    use pb::fractional_percent::DenominatorType;
    let denominator = match percent.map(pb::FractionalPercent::denominator) {
        Some(DenominatorType::TenThousand) => 10_000,
        Some(DenominatorType::Million) => 1_000_000,
        Some(DenominatorType::Hundred) | None => 100,
    };
    Fraction { numerator: percent.map_or(0, |percent| percent.numerator), denominator }
}
