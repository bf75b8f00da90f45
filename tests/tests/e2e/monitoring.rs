//! `conf/monitoring`: the alert rules hold for each fault of the documents, and rules and dashboard work on a real Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bywash_tests::harness::{
    Broker, Bywash, Process, Scrape, Settings, broker,
    process::run,
    tool,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::append;

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/monitoring").join(name).canonicalize().unwrap()
}

#[test]
fn the_alert_rules_have_a_case_for_each_row_of_the_table_of_faults_and_hold_in_all() {
    let cases = fs::read_to_string(conf("alerts_test.yml")).unwrap();
    let document = include_str!("../../../docs/kafka.md");
    let table = document.split_once("| fault | ").unwrap().1;
    let rows: Vec<_> =
        table.lines().skip(2).map_while(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        assert!(cases.contains(&format!("\n  - name: {row}\n")), "no case for: {row}");
    }
    // Every rule is seen to fire.
    let rules = fs::read_to_string(conf("alerts.yml")).unwrap();
    for rule in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = cases.split("\n        alertname: ").any(|case| case.starts_with(&format!("{rule}\n")));
        assert!(fires, "no case has {rule} fire");
    }
    for arguments in [["check", "rules"], ["test", "rules"]] {
        let file = conf(if arguments[0] == "check" { "alerts.yml" } else { "alerts_test.yml" });
        let done = run(Command::new(tool("promtool")).args(arguments).arg(file), TIMEOUT);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
}

/// A Prometheus that scrapes one address each second, by the rules.
struct Prometheus {
    address: SocketAddr,
    process: Process,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(scraped: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = broker::free_address();
        let config = dir.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{:?}]\nscrape_configs:\n\
             \x20 - job_name: bywash\n    static_configs: [{{ targets: [{:?}] }}]\n",
            conf("alerts.yml"),
            scraped.to_string()
        );
        fs::write(&config, text).unwrap();
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let program = tool("prometheus");
        let process = Process::spawn("prometheus", &program, arguments, dir.path(), Signal::SIGKILL);
        Self { address, process, _dir: dir }
    }

    /// What the interface for programs answers; none as long as it does not.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        // Of version 1.0, so that the body comes in one piece.
        stream.write_all(format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn query(&self, expression: &str) -> Value {
        let coded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        self.ask(&format!("query?query={coded}")).unwrap_or(Value::Null)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill9();
    }
}

/// The names of our metrics in an expression, those of a histogram's parts under its own.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words.filter(|word| word.starts_with("bywash_"));
    named.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}

/// Every query of the dashboard, as Grafana would ask it.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(conf("dashboard.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let asked = expression
                .replace("$instance", ".*")
                .replace("$ring", ".*")
                .replace("$__rate_interval", "1m");
            found.push((panel["title"].as_str().unwrap().to_owned(), asked));
        }
    }
    found
}

#[test]
fn a_prometheus_scrapes_every_metric_and_runs_every_rule_and_every_query_of_the_dashboard() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.edit("", "\n[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let fifo = bywash.add_fifo("pipe", "");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x");
    fs::write(&fifo, "a line\n").unwrap();
    let publisher = bywash.publisher();
    let scraped: SocketAddr = wait::until("the metrics' address", TIMEOUT, || {
        let log = publisher.log();
        let named =
            log.split_once("http://").and_then(|(_, rest)| rest.split_once("/metrics")?.0.parse().ok());
        named.ok_or(log)
    });
    let prometheus = Prometheus::start(scraped);
    wait::until("it to be scraped, twice for rates", TIMEOUT, || {
        let up = prometheus.query(
            "count_over_time(up{job=\"bywash\"}[1m]) > 2 and on() bywash_delivered_records_total >= 2",
        );
        if up["data"]["result"].as_array().is_some_and(|found| !found.is_empty()) {
            Ok(())
        } else {
            Err(up.to_string())
        }
    });
    // librdkafka has said how it is doing.
    wait::until("round trips", TIMEOUT, || {
        let trips = Scrape::of(scraped).value("bywash_sink_round_trip_seconds", &[("sample", "count")]);
        if trips > 0.0 { Ok(()) } else { Err(trips.to_string()) }
    });
    let served: BTreeSet<String> = Scrape::of(scraped).families.into_keys().collect();
    let queries = queries();
    assert!(queries.len() > 30);
    for (panel, query) in &queries {
        let answer = prometheus.query(query);
        assert_eq!(answer["status"], "success", "{panel}: {query}: {answer}");
        let unknown: Vec<_> = metrics_in(query).difference(&served).cloned().collect();
        assert!(unknown.is_empty(), "{panel}: {unknown:?} are not served");
        let is_seen = !answer["data"]["result"].as_array().unwrap().is_empty();
        assert!(
            is_seen || query.contains("rate(") || query.contains("increase("),
            "{panel} shows nothing: {query}"
        );
    }
    let rules = wait::until("the rules to be evaluated", TIMEOUT, || {
        let rules = prometheus.ask("rules").unwrap_or_default();
        let all = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        let is_done = !all.is_empty() && all.iter().all(|rule| rule["health"] != "unknown");
        if is_done { Ok(all) } else { Err(rules.to_string()) }
    });
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "nothing is wrong: {rule}");
        let unknown: Vec<_> =
            metrics_in(rule["query"].as_str().unwrap()).difference(&served).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} are not served: {rule}");
    }
    // The page is as Prometheus's own tool wants it.
    let mut page = TcpStream::connect(scraped).unwrap();
    page.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    page.read_to_string(&mut text).unwrap();
    let mut lint = Command::new(tool("promtool"));
    let mut lint =
        lint.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lint.stdin.take().unwrap().write_all(text.split_once("\r\n\r\n").unwrap().1.as_bytes()).unwrap();
    let lint = lint.wait_with_output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stderr));
}
