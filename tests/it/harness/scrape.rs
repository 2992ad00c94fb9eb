//! One reading of `/metrics`.

use std::collections::BTreeMap;

/// A series and its value.
#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// All series of one reading.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    /// As it came.
    pub(crate) text: String,
    samples: Vec<Sample>,
}

impl Scrape {
    /// Parses the text format; fails on a line that is not of it.
    pub(crate) fn parse(text: String) -> Scrape {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}")))
            .collect();
        Scrape { text, samples }
    }

    /// The sum of all series of that name that have these labels; `None` where there is none.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matches = |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(has)
        };
        let found: Vec<f64> = self.samples.iter().filter(matches).map(|s| s.value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// As [`Scrape::get`], with 0 for a series that is not there.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_default()
    }

    /// Both sides of the conservation law of spec 1 for one connection: what came in, and where it is now.
    pub(crate) fn conservation(&self, connection: &str) -> (f64, f64) {
        let of = ("connection", connection);
        let came = ["accepted", "recovered", "replayed"]
            .map(|word| self.sum(&format!("posthaste_deliveries_{word}_total"), &[of]));
        let over = self.sum("posthaste_deliveries_total", &[of]);
        (came.iter().sum(), over + self.waiting(connection))
    }

    /// Deliveries of one connection that are not over.
    pub(crate) fn waiting(&self, connection: &str) -> f64 {
        self.sum("posthaste_queue_events", &[("connection", connection)])
    }

    /// Checks the conservation law for these connections.
    #[track_caller]
    pub(crate) fn assert_conserved(&self, connections: &[&str]) {
        for connection in connections {
            let (came, is) = self.conservation(connection);
            assert_eq!(came, is, "{connection}: came in, is now\n{}", self.text);
        }
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels
        .split("\",")
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (key, value) = label.split_once("=\"")?;
            Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
        })
        .collect::<Option<_>>()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[test]
fn scrape_sums_over_labels_and_sees_an_imbalance() {
    let text = "# TYPE posthaste_deliveries_accepted_total counter\n\
        posthaste_deliveries_accepted_total{connection=\"a\"} 5\n\
        posthaste_deliveries_total{connection=\"a\",outcome=\"delivered\"} 3\n\
        posthaste_deliveries_total{connection=\"a\",outcome=\"dead\"} 1\n\
        posthaste_queue_events{connection=\"a\",state=\"queued\"} 1\nup 1\n";
    let scrape = Scrape::parse(text.to_owned());
    assert_eq!(scrape.conservation("a"), (5.0, 5.0));
    assert_eq!(scrape.get("posthaste_deliveries_total", &[("outcome", "dead")]), Some(1.0));
    assert_eq!(scrape.get("absent", &[]), None);
    let lost = Scrape::parse(text.replace("} 3", "} 2"));
    assert_eq!(lost.conservation("a"), (5.0, 4.0));
}
