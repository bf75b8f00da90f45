use std::{
    io::{Read, Write},
    iter::empty,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::{
    all::{families, page as page_of},
    exposition::{Kind, Page},
    families::{Family, Seen},
    places::Places,
    server::answer,
};

fn page(fill: impl FnOnce(&mut Page)) -> String {
    let mut page = Page::default();
    fill(&mut page);
    page.finish()
}

/// A ring that there is none of, and nothing beside it.
fn nowhere() -> Places {
    Places::of_ring("bywash-no-such-ring")
}

#[test]
fn a_family_has_help_type_and_samples() {
    let text = page(|page| {
        page.family("a_total", Kind::Counter, "What it is.");
        page.sample("a_total", [("ring", "r"), ("reason", "x")].into_iter(), 7_u64);
        page.family("b_seconds", Kind::Gauge, "B.");
        page.sample("b_seconds", empty(), 0.25);
        page.sample("b_seconds", empty(), u64::MAX);
    });
    let expected = "# HELP a_total What it is.\n# TYPE a_total counter\na_total{ring=\"r\",reason=\"x\"} 7\n\
                    # HELP b_seconds B.\n# TYPE b_seconds gauge\nb_seconds 0.25\nb_seconds 18446744073709551615\n";
    assert_eq!(text, expected);
}

#[test]
fn what_a_label_s_value_may_not_hold_is_escaped_and_all_else_stays() {
    let text = page(|page| page.sample("m", [("path", "/a\"b\\c\nd{e},é=\t")].into_iter(), 1));
    assert_eq!(text, "m{path=\"/a\\\"b\\\\c\\nd{e},é=\t\"} 1\n");
}

#[test]
fn names_are_as_prometheus_has_them() {
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    for (i, Family { name, kind, labels, help, .. }) in families().enumerate() {
        assert!(name.starts_with("bywash_") && is_name(name), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(labels.iter().all(|label| is_name(label)), "{name}: {labels:?}");
        assert!(!help.is_empty() && !help.contains(['\\', '\n', '|']), "{name}: {help}");
        assert!(families().take(i).all(|other| other.name != *name), "{name} is there twice");
    }
}

#[test]
fn the_documents_table_has_every_metric_and_no_other() {
    let document = include_str!("../../../docs/metrics.md");
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `bywash_")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?;
        let [kind, labels, help] = [cells.next()?, cells.next()?, cells.next()?];
        Some([format!("bywash_{name}"), kind.to_owned(), labels.replace('`', ""), help.replace('`', "")])
    };
    let shown: Vec<_> = document.lines().filter_map(row).collect();
    let served = families().map(|family| {
        let Family { name, kind, labels, help, .. } = family;
        [(*name).to_owned(), kind.word().to_owned(), labels.join(", "), help.replace('`', "")]
    });
    for (shown, served) in shown.iter().zip(served.clone()) {
        assert_eq!(*shown, served);
    }
    assert_eq!(shown.len(), served.count());
}

#[test]
fn without_a_ring_every_metric_is_there_and_says_that_nothing_runs() {
    let text = page_of(&Seen::now(&nowhere()).unwrap());
    for Family { name, kind, .. } in families() {
        assert!(text.contains(&format!("# TYPE {name} {}\n", kind.word())), "{name} is not in:\n{text}");
    }
    for line in [
        "bywash_publisher_up{ring=\"bywash-no-such-ring\"} 0",
        "bywash_lag_bytes{ring=\"bywash-no-such-ring\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn a_connection_whose_time_is_up_is_closed_with_or_without_half_a_request() {
    for sent in ["", "GET /metrics HT"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(sent.as_bytes()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            answer(stream, nowhere().into(), Duration::from_millis(20)).await;
        });
        let mut rest = Vec::new();
        // What was not read resets the connection.
        let ended = client.read_to_end(&mut rest);
        assert!(matches!(ended, Ok(0)) || ended.is_err(), "{sent}: {}", String::from_utf8_lossy(&rest));
    }
}
