//! What file operations under the overlay cost, beside the bare directory and other filesystems in user space.

use bywash_benches::{
    overlay::{self, OVERLAY, Subject, Work, bonnie},
    report::data::{Cell, Column, Goal, Part, Row, Table},
};
use bywash_tests::harness::temporary_directory;

use crate::run::{Run, mib};

const ROUNDS: usize = 7;
/// The baseline's name among the subjects.
const BARE: &str = "bare";
/// The fastest filesystem in user space that Debian has, by its name.
const PEER: &str = "mergerfs";

/// By subject, by work, by round: microseconds for one operation.
type Figures = Vec<Vec<Vec<f64>>>;

/// Works of one table: its title, which they are, and which of them are drawn.
type Kind = (&'static str, fn(&Work) -> bool, &'static [usize]);

pub fn measure(run: &mut Run) -> Part {
    let root = temporary_directory();
    let rounds = run.count(ROUNDS, 2);
    let subjects = overlay::subjects(root.path(), &[], &[], false);
    for program in [PEER, "bindfs"] {
        if !subjects.iter().any(|subject| subject.name == program) {
            run.skip(program, &format!("it is not here: apt-get install {program}"));
        }
    }
    let works = overlay::works();
    let mut figures: Figures = vec![vec![Vec::new(); works.len()]; subjects.len()];
    for round in 0..rounds {
        run.say(&format!(
            "round {} of {rounds}: file operations in {} directories",
            round + 1,
            subjects.len()
        ));
        for (w, work) in works.iter().enumerate() {
            for turn in 0..subjects.len() {
                // Whoever comes first finds another machine than whoever comes last.
                let at = (turn + round) % subjects.len();
                figures[at][w].push(work.measure(&subjects[at]));
            }
        }
    }
    let mut tables = tables(&subjects, &works, &figures);
    match bonnie::missing() {
        Some(why) => run.skip(bonnie::NAME, &why),
        None => tables.push(bonnie_table(run, &subjects)),
    }
    let memory = subjects.iter().filter_map(|s| Some((s.name.clone(), mib(s.memory_bytes()?))));
    Part {
        id: "overlay".to_owned(),
        title: "What the overlay costs".to_owned(),
        method: method(rounds, &memory.collect::<Vec<_>>()),
        goals: goals(&subjects, &works, &figures),
        tables,
    }
}

fn method(rounds: usize, memory: &[(String, f64)]) -> Vec<String> {
    let memory = memory.iter().map(|(name, mib)| format!("{name} {mib:.1} MiB"));
    vec![
        format!(
            "One program does the same in each directory, in turns, {rounds} rounds. `uncaptured` is the overlay with every file excluded: what it is \
             faster by is what capturing costs. What is captured is drained by another process. mergerfs and bindfs are mounted as their documents \
             say for speed: `cache.files=off`, `--multithreaded`."
        ),
        "The program and who serves it wake each other, and where the scheduler puts them makes a factor of two from one second to the next: \
         look at the spread before you compare."
            .to_owned(),
        format!("Memory of their own, without the ring, after all of it: {}.", memory.collect::<Vec<_>>().join(", ")),
    ]
}

/// No goal of ours is an absolute time: the fastest peer is the measure.
fn goals(subjects: &[Subject], works: &[Work], figures: &Figures) -> Vec<Goal> {
    let place = |name: &str| subjects.iter().position(|subject| subject.name == name);
    let (Some(ours), Some(theirs)) = (place(OVERLAY), place(PEER)) else { return Vec::new() };
    let median = |subject: usize, work: usize| bywash_benches::median(&mut figures[subject][work].clone());
    let slower: Vec<String> = works
        .iter()
        .enumerate()
        .filter(|(w, _)| median(ours, *w) > median(theirs, *w))
        .map(|(w, work)| format!("{} {:.2} times", work.name(), median(ours, w) / median(theirs, w)))
        .collect();
    let measured = if slower.is_empty() { "none is slower".to_owned() } else { slower.join(", ") };
    vec![Goal {
        wanted: format!("no operation takes longer than under {PEER}, which captures nothing"),
        measured,
        met: slower.is_empty(),
    }]
}

/// Once in each directory: it takes long.
fn bonnie_table(run: &Run, subjects: &[Subject]) -> Table {
    let row = |subject: &Subject| {
        run.say(&format!("{} in {}", bonnie::NAME, subject.name));
        let cell = |figure: Option<f64>| {
            figure.map_or_else(|| Cell::Text("too quick to tell".to_owned()), |f| Cell::of(vec![f]))
        };
        Row { name: shown(subject), cells: bonnie::measure(subject).into_iter().map(cell).collect() }
    };
    Table {
        title: "bonnie++ (512 MiB in the page cache, 4,096 files; one round; more is better)".to_owned(),
        of: "directory".to_owned(),
        rows: subjects.iter().map(row).collect(),
        columns: bonnie::columns().map(|(name, unit)| Column::new(name, unit)).collect(),
        charted: Vec::new(),
    }
}

/// A subject's name for people.
fn shown(subject: &Subject) -> String {
    if subject.name == BARE { "bare directory".to_owned() } else { subject.name.clone() }
}

fn tables(subjects: &[Subject], works: &[Work], figures: &Figures) -> Vec<Table> {
    let kinds: [Kind; 3] = [
        ("Writes", |work| matches!(work, Work::Write(_)), &[1, 2]),
        ("Reads", |work| matches!(work, Work::ReadWarm(_) | Work::ReadRandom(_) | Work::ReadCold(_)), &[2]),
        (
            "Names",
            |work| {
                !matches!(work, Work::Write(_) | Work::ReadWarm(_) | Work::ReadRandom(_) | Work::ReadCold(_))
            },
            &[0, 1],
        ),
    ];
    kinds
        .into_iter()
        .map(|(title, is_one, charted)| {
            let places: Vec<usize> = (0..works.len()).filter(|&w| is_one(&works[w])).collect();
            Table {
                title: format!("{title}: time for one operation"),
                of: "directory".to_owned(),
                columns: places.iter().map(|&w| Column::new(&works[w].name(), "µs")).collect(),
                rows: subjects
                    .iter()
                    .zip(figures)
                    .map(|(subject, figures)| Row {
                        name: shown(subject),
                        cells: places.iter().map(|&w| Cell::of(figures[w].clone())).collect(),
                    })
                    .collect(),
                charted: charted.to_vec(),
            }
        })
        .collect()
}
