//! Random access logs, and other words for answers.

use std::collections::BTreeMap;

use meshwork_model::flag::{Flag, Flags};
use meshwork_model::format::Json;
use meshwork_model::proxy::{
    AccessLog, AppendAction, Comparison, Format, FormatBody, LocalReplies, LogFilter, LogSink, ReplyHeader,
    ReplyMapper,
};

use super::{DEPTH, Random};

impl Random {
    pub(super) fn access_log(&mut self) -> AccessLog {
        AccessLog {
            sink: match self.0.u8(0..3) {
                0 => LogSink::File(self.text()),
                1 => LogSink::Stdout,
                _ => LogSink::Stderr,
            },
            format: self.format(),
            filter: self.maybe(|random| random.log_filter(DEPTH)),
        }
    }

    fn format(&mut self) -> Format {
        let body = if self.0.bool() {
            FormatBody::Text(self.template())
        } else {
            FormatBody::Json(self.json_object(DEPTH))
        };
        Format { body, omit_empty: self.0.bool(), content_type: self.maybe(Self::text) }
    }

    fn json_object(&mut self, depth: usize) -> Json {
        let members = self.some(0, |random| (Box::from(&*random.text()), random.json(depth)));
        Json::object(members.into_iter().collect::<BTreeMap<_, _>>())
    }

    fn json(&mut self, depth: usize) -> Json {
        match self.0.u8(if depth == 0 { 0..2 } else { 0..4 }) {
            0 => Json::Text(self.template()),
            1 => Json::Constant(self.pick(&["null", "true", "false", "1.5", "-3"]).into()),
            2 => self.json_object(depth - 1),
            _ => Json::List(self.some(0, |random| random.json(depth - 1))),
        }
    }

    fn log_filter(&mut self, depth: usize) -> LogFilter {
        let comparison =
            self.pick(&[Comparison::Equal, Comparison::NotEqual, Comparison::AtLeast, Comparison::AtMost]);
        match self.0.u8(if depth == 0 { 2..11 } else { 0..11 }) {
            0 => LogFilter::All(self.some(2, |random| random.log_filter(depth - 1))),
            1 => LogFilter::Any(self.some(2, |random| random.log_filter(depth - 1))),
            2 => LogFilter::Status(comparison, self.0.u32(..).into()),
            3 => LogFilter::Duration(comparison, self.0.u32(..).into()),
            4 => LogFilter::NotHealthCheck,
            5 => LogFilter::Traceable,
            6 => LogFilter::Share(self.share()),
            7 => LogFilter::Header(self.header()),
            8 => {
                let flags = self.some(0, |random| random.pick(Flag::ALL));
                LogFilter::Flags(flags.into_iter().collect::<Flags>())
            }
            9 => LogFilter::GrpcStatus { statuses: self.0.u32(0..1 << 17), exclude: self.0.bool() },
            _ => LogFilter::AtEnd(self.0.bool()),
        }
    }

    pub(super) fn local_replies(&mut self) -> LocalReplies {
        LocalReplies { mappers: self.some(0, Self::mapper), format: self.maybe(Self::format) }
    }

    fn mapper(&mut self) -> ReplyMapper {
        let header = |random: &mut Self| ReplyHeader {
            name: random.text(),
            value: random.value(),
            action: random.pick(&[
                AppendAction::Append,
                AppendAction::IfAbsent,
                AppendAction::Overwrite,
                AppendAction::OverwriteIfExists,
            ]),
            keep_empty: random.0.bool(),
        };
        ReplyMapper {
            filter: self.log_filter(DEPTH),
            status: self.maybe(|random| random.0.u16(200..600)),
            body: self.maybe(Self::text),
            format: self.maybe(Self::format),
            headers: self.some(0, header),
        }
    }
}
