//! Where a run happens, and of what.

use std::{fs, process::Command, time::Duration};

use bywash_benches::report::data::Machine;

/// How long it looks how busy others keep the processors.
const LOOK_TIME: Duration = Duration::from_secs(10);

pub fn describe() -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory, system) = (text("/proc/cpuinfo"), text("/proc/meminfo"), text("/etc/os-release"));
    let behind = |text: &str, key: &str, mark: char| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(mark)).map(|(_, value)| value);
        value.unwrap_or("unknown").trim().trim_matches('"').to_owned()
    };
    let memory = behind(&memory, "MemTotal", ':');
    eprintln!("looking for {LOOK_TIME:?} how busy the machine is");
    Machine {
        processor: behind(&cpus, "model name", ':'),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10,
        kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease").trim()),
        system: behind(&system, "PRETTY_NAME", '='),
        filesystem: said_by(
            Command::new("stat").args(["--file-system", "--format=%T"]).arg(std::env::temp_dir()),
        ),
        busy_before: busy(),
    }
}

/// The source's commit, with a mark where files differ from it.
pub fn source() -> String {
    let described = said_by(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]));
    if described.is_empty() { "unknown source".to_owned() } else { format!("commit {described}") }
}

fn said_by(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// The share of the processors' time that is not idle.
fn busy() -> f64 {
    let times = || {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let fields: Vec<f64> = first.split_whitespace().skip(1).filter_map(|x| x.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal, then parts of user.
        let all: f64 = fields.iter().take(8).sum();
        (all, all - fields.iter().skip(3).take(2).sum::<f64>())
    };
    let before = times();
    std::thread::sleep(LOOK_TIME);
    let after = times();
    (after.1 - before.1) / (after.0 - before.0).max(1.0)
}
