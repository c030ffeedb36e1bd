use super::*;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::metrics::v1::Sum;
use opentelemetry_proto::tonic::resource::v1::Resource;

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn point(attributes: &[(&str, &str)], value: number_data_point::Value) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes.iter().map(|(k, v)| attribute(k, v)).collect(),
        start_time_unix_nano: 3,
        time_unix_nano: 9,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

const MINIMAL: [(&str, &str); 2] = [("reporter", "source"), ("request_protocol", "http")];

fn sum(name: &str, temporality: i32, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = Sum { data_points, aggregation_temporality: temporality, is_monotonic: true };
    Metric { name: name.into(), data: Some(Data::Sum(data)), ..Metric::default() }
}

fn read(metric: &Metric) -> Vec<Point> {
    let mut report = report(&ResourceMetrics::default());
    report.read(metric);
    report.points
}

fn check_count(value: number_data_point::Value, expected: Option<u64>) {
    let points = read(&sum("istio_requests", 2, vec![point(&MINIMAL, value)]));
    let got = points.first().map(|p| match p.value {
        Value::Outcome { count, .. } => count,
        _ => u64::MAX,
    });
    assert_eq!(got, expected, "{value:?}");
}

#[test]
fn only_whole_positive_counts_count() {
    use number_data_point::Value::{AsDouble, AsInt};
    check_count(AsInt(7), Some(7));
    check_count(AsInt(-1), None);
    check_count(AsDouble(7.9), Some(7));
    check_count(AsDouble(-0.5), None);
    check_count(AsDouble(f64::NAN), None);
    check_count(AsDouble(f64::INFINITY), None);
    check_count(AsDouble(1e300), None);
}

fn check_labels(attributes: &[(&str, &str)], expected: bool) {
    let value = number_data_point::Value::AsInt(1);
    let points = read(&sum("istio_requests", 2, vec![point(attributes, value)]));
    assert_eq!(points.len(), usize::from(expected), "{attributes:?}");
}

#[test]
fn a_point_needs_a_reporter_and_a_protocol() {
    check_labels(&MINIMAL, true);
    check_labels(&[], false);
    check_labels(&MINIMAL[..1], false);
    check_labels(&[("reporter", "waypoint"), ("request_protocol", "http")], false);
    check_labels(&[("reporter", "source"), ("request_protocol", "ftp")], false);
}

#[test]
fn temporality_must_be_told() {
    let value = number_data_point::Value::AsInt(1);
    for (temporality, expected) in [(0, 0), (1, 1), (2, 1), (99, 0)] {
        let metric = sum("istio_requests", temporality, vec![point(&MINIMAL, value)]);
        assert_eq!(read(&metric).len(), expected, "{temporality}");
    }
}

fn check_histogram(bounds: &[f64], counts: &[u64], expected: Option<u64>) {
    let point = HistogramDataPoint {
        explicit_bounds: bounds.to_vec(),
        bucket_counts: counts.to_vec(),
        ..HistogramDataPoint::default()
    };
    assert_eq!(duration(&point).map(|h| h.count()), expected, "{bounds:?} {counts:?}");
}

#[test]
fn malformed_histograms_are_skipped() {
    check_histogram(&[5.0, 10.0], &[1, 2, 3], Some(6));
    check_histogram(&[], &[], None);
    check_histogram(&[], &[4], None);
    check_histogram(&[5.0], &[1, 2, 3], None);
    check_histogram(&[f64::NAN], &[1, 0], None);
    check_histogram(&[-1.0], &[1, 0], None);
    check_histogram(&[f64::INFINITY], &[1, 0], None);
    check_histogram(&vec![1.0; MAX_BUCKETS], &vec![0; MAX_BUCKETS + 1], None);
}

#[test]
fn our_own_buckets_arrive_as_they_were() {
    let mut sent = Histogram::durations();
    for bucket in 0..=DURATION_BOUNDS.len() {
        sent.record_bucket(bucket, bucket as u64 + 1);
    }
    #[expect(clippy::cast_precision_loss, reason = "as it is sent")]
    let explicit_bounds = DURATION_BOUNDS.iter().map(|bound| *bound as f64 / NANOS_PER_MILLI).collect();
    let bucket_counts = sent.counts().to_vec();
    let point = HistogramDataPoint { explicit_bounds, bucket_counts, ..HistogramDataPoint::default() };
    assert_eq!(duration(&point).expect("well-formed").counts(), sent.counts());
}

#[test]
fn long_texts_are_cut_between_characters() {
    let long = "é".repeat(1000);
    let attributes = [attribute("service.name", &long)];
    assert_eq!(text(&attributes, "service.name").len(), MAX_TEXT_BYTES);
    let resource = Resource { attributes: attributes.to_vec(), ..Resource::default() };
    let report = report(&ResourceMetrics { resource: Some(resource), ..ResourceMetrics::default() });
    assert_eq!(report.instance[1].len(), MAX_TEXT_BYTES);
}

#[test]
fn a_callers_name_comes_from_its_principal_where_it_is_not_told() {
    for (principal, expected) in [
        ("spiffe://mesh.local/ns/shop/sa/web", ("web", "shop")),
        ("spiffe://mesh.local/vm/7", ("unknown", "unknown")),
        ("unknown", ("unknown", "unknown")),
    ] {
        let attributes = [MINIMAL.as_slice(), &[("source_principal", principal)]].concat();
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| attribute(k, v)).collect();
        let route = subject(&attributes).expect("labelled").route;
        assert_eq!((&*route.from, &*route.from_namespace), expected, "{principal}");
    }
}
