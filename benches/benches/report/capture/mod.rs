//! What is captured: one script of writers, and what comes of it under each who is to capture it.

mod script;
mod subjects;

use std::{collections::HashMap, time::Duration};

use bywash_benches::report::{
    data::{Cell, Column, Goal, Part, Row, Table},
    score::Score,
};
use bywash_tests::harness::temporary_directory;

use crate::run::{Run, mib};
use script::{WRITERS, Writer};
use subjects::{SUBJECTS, Subject};

const ROUNDS: usize = 3;

/// What the rounds of one subject gave.
#[derive(Default)]
struct Taken {
    /// By the writer's name.
    scores: HashMap<&'static str, Vec<Score>>,
    /// Of the appends alone: of who captures, and of the script.
    capture_cpu_us: Vec<f64>,
    script_cpu_us: Vec<f64>,
    memory: Vec<f64>,
}

pub fn measure(run: &mut Run) -> Part {
    let rounds = run.count(ROUNDS, 1);
    let mut present = Vec::new();
    for subject in SUBJECTS {
        match subject.missing() {
            Some(why) => run.skip(subject.name(), &why),
            None => present.push(subject),
        }
    }
    let mut all: Vec<Taken> = present.iter().map(|_| Taken::default()).collect();
    for round in 0..rounds {
        for turn in 0..present.len() {
            // Whoever comes first finds another machine than whoever comes last.
            let at = (turn + round) % present.len();
            run.say(&format!(
                "round {} of {rounds}: ten ways to write under {}",
                round + 1,
                present[at].name()
            ));
            one_round(run, present[at], &mut all[at]);
        }
    }
    let watchers: Vec<_> = present.iter().zip(&all).filter(|(s, _)| **s != Subject::Nobody).collect();
    let bare = present.iter().zip(&all).find(|(s, _)| **s == Subject::Nobody).map(|(_, taken)| taken);
    Part {
        id: "capture".to_owned(),
        title: "What is captured".to_owned(),
        method: method(rounds, &watchers),
        goals: goals(&watchers),
        tables: tables(&watchers, bare.unwrap()),
    }
}

fn one_round(run: &mut Run, subject: Subject, taken: &mut Taken) {
    let watching = subject.start();
    let elsewhere = temporary_directory();
    let mut done = Vec::new();
    for (i, writer) in WRITERS.iter().enumerate() {
        let cpu = watching.cpu();
        let wrote = match script::write(writer, &watching.directory, elsewhere.path()) {
            Ok(wrote) => wrote,
            Err(why) => {
                run.skip(&format!("{} under {}", writer.title, subject.name()), &why);
                continue;
            }
        };
        if i == 0 {
            watching.settle();
            let micros = |time: Duration| time.as_secs_f64() * 1e6 / writer.events as f64;
            taken.capture_cpu_us.push(micros(watching.cpu().saturating_sub(cpu)));
            taken.script_cpu_us.push(wrote.cpu_seconds * 1e6 / writer.events as f64);
        }
        done.push((writer, wrote));
    }
    watching.settle();
    taken.memory.push(mib(watching.memory()));
    let captured = watching.captured();
    for (writer, wrote) in done {
        taken.scores.entry(writer.name).or_default().push(Score::of(&wrote.events, &captured));
    }
}

fn method(rounds: usize, watchers: &[(&Subject, &Taken)]) -> Vec<String> {
    let counts = WRITERS.iter().map(|writer| format!("{} {}", writer.events, writer.title));
    let mut said = vec![
        format!(
            "One script (`benches/benches/report/capture/writers.py`) writes events with a mark each, as fast as it can, in {rounds} rounds: {}. \
             Who captures runs before the script begins, and is waited for until it has said nothing new for two seconds. \
             An event is captured if its bytes come out at the other end; it is attributed if the id of the process that wrote it comes with it. \
             A rotated file's new name is excluded for all.",
            counts.collect::<Vec<_>>().join(", ")
        ),
        "Stores into a mapping are written by the kernel, when it likes or at msync: whose they were nobody can tell. CPU is taken while 10,000 lines \
         of 100 bytes are appended: that of the processes that capture and what the script takes more than without any of them, for one line; work of the \
         kernel that it does for nobody in particular is in neither. bywash, bpftrace and tailers write what they capture to a file."
            .to_owned(),
    ];
    said.extend(watchers.iter().map(|(subject, _)| format!("`{}`: {}", subject.name(), subject.settings())));
    said
}

fn goals(watchers: &[(&Subject, &Taken)]) -> Vec<Goal> {
    let ours = watchers.iter().find(|(subject, _)| **subject == Subject::Bywash);
    let total = |figure: fn(&Score) -> usize| -> usize {
        ours.iter().flat_map(|(_, taken)| taken.scores.values().flatten()).map(figure).sum()
    };
    let (lost, late, twice) = (total(|s| s.lost), total(|s| s.out_of_order), total(|s| s.duplicated));
    vec![Goal {
        wanted: "bywash loses no event, repeats none and keeps their order".to_owned(),
        measured: format!(
            "{} events, {lost} lost, {twice} duplicates, {late} out of order",
            total(|s| s.events)
        ),
        met: lost + late + twice == 0,
    }]
}

/// Shares of the written events, in percent, by round; nothing where nobody could write so.
fn shares(taken: &Taken, writer: &Writer, figure: fn(&Score) -> usize) -> Vec<f64> {
    let share = |score: &Score| figure(score) as f64 * 100.0 / score.events as f64;
    taken.scores.get(writer.name).into_iter().flatten().map(share).collect()
}

/// The same for all writers together.
fn overall(taken: &Taken, figure: fn(&Score) -> usize) -> Vec<f64> {
    let rounds = taken.scores.values().map(Vec::len).min().unwrap_or(0);
    // A way to write counts as much as any other, however many events it has.
    let of_round = |round: usize| {
        let each = taken.scores.values().map(|scores| {
            let score = &scores[round];
            figure(score) as f64 * 100.0 / score.events as f64
        });
        each.sum::<f64>() / taken.scores.len() as f64
    };
    (0..rounds).map(of_round).collect()
}

fn tables(watchers: &[(&Subject, &Taken)], bare: &Taken) -> Vec<Table> {
    let bare_script = bywash_benches::median(&mut bare.script_cpu_us.clone());
    let row = |(subject, taken): &(&Subject, &Taken)| {
        let added = taken.script_cpu_us.iter().map(|us| (us - bare_script).max(0.0)).collect();
        let cells = vec![
            Cell::of(overall(taken, |s| s.lost)),
            Cell::of(overall(taken, |s| s.duplicated)),
            Cell::of(overall(taken, |s| s.out_of_order)),
            Cell::of(overall(taken, |s| s.attributed)),
            Cell::of(taken.capture_cpu_us.clone()),
            Cell::of(added),
            Cell::of(taken.memory.clone()),
        ];
        Row { name: subject.name().to_owned(), cells }
    };
    let percent = ["lost", "duplicates", "out of order", "with the right process"];
    let columns = percent.map(|name| Column::new(name, "%")).into_iter();
    let others = [
        Column::new("CPU a write", "µs"),
        Column::new("more CPU of the writer", "µs"),
        Column::new("memory", "MiB"),
    ];
    let overview = Table {
        title: "All ways to write together, each counting alike".to_owned(),
        of: "who captures".to_owned(),
        columns: columns.chain(others).collect(),
        rows: watchers.iter().map(row).collect(),
        charted: vec![0, 4],
    };
    let each = [
        ("Events lost, by the way they were written", (|s| s.lost) as fn(&Score) -> usize),
        ("Duplicates", |s| s.duplicated),
        ("Out of order", |s| s.out_of_order),
        ("With the process that wrote them", |s| s.attributed),
    ];
    let detail = each.map(|(title, figure)| Table {
        title: title.to_owned(),
        of: "who captures".to_owned(),
        columns: WRITERS.iter().map(|writer| Column::new(writer.title, "%")).collect(),
        rows: watchers
            .iter()
            .map(|(subject, taken)| Row {
                name: subject.name().to_owned(),
                cells: WRITERS.iter().map(|writer| Cell::of(shares(taken, writer, figure))).collect(),
            })
            .collect(),
        charted: Vec::new(),
    });
    std::iter::once(overview).chain(detail).collect()
}
