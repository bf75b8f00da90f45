//! The layers of each crate: its rooms (the modules at its top) stand on floors, and a room imports from lower floors alone. Within a
//! room files import from one another without a circle, but for [`CIRCLES`]. What tests import is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::root;

/// The rooms of a crate, lowest floor first. Rooms of one floor do not know of one another.
type Floors = &'static [&'static [&'static str]];

const COMMON: Floors = &[
    &["clock", "escape", "exit", "fail_point", "glob", "make", "record", "secrets", "sync", "units"],
    &["logging", "output", "ring", "text_report"],
    &["config", "shared"],
    &["cli"],
];

const FS_AGENT: Floors = &[
    &["by_number", "cli", "event", "manager", "privilege", "sync", "sys"],
    &["shares"],
    &["fd_store", "state", "status", "worker_pool"],
    &["capture", "overlay"],
    &["fifo", "fuse", "process"],
    &["bench_support", "mount", "sleep"],
    &["cleanup", "rings", "services"],
    &["check"],
    &["refused", "supervise"],
    &["run"],
];

const PUBLISHER: Floors = &[
    &["faults"],
    &["aws", "clock", "destination", "disk", "names", "rate", "signals", "sink_stats", "state_dir", "topics"],
    &["delivery"],
    &["dead_letter", "encode", "lines", "spool"],
    &["route", "sink"],
    &["reload", "status"],
    &["drain", "metrics"],
    &["check", "consume", "discard"],
    &["run", "tap"],
    &["cli"],
];

/// Modules of a crate by path, `sink::kafka::retry`, and their code without tests.
fn modules(of: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(&root().join(of).join("src"), "", &mut found);
    found
}

fn collect(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_test = ["simulation", "testing", "tests"].contains(&name.as_str()) || name.ends_with("_tests");
        if path.is_dir() && !is_test {
            collect(&path, &join(prefix, &name), found);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test && name != "main" {
            let module = match name.as_str() {
                "mod" => prefix.to_owned(),
                "lib" => String::new(),
                _ => join(prefix, &name),
            };
            found.insert(module, code_of(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") }
}

/// The code up to its tests, without comments.
fn code_of(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    shipped.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` tree names.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap();
        return paths.push(format!("{prefix}{path}"));
    };
    let inner = tree[open + 1..].strip_suffix('}').expect("a tree that ends");
    let prefix = format!("{prefix}{}", &tree[..open]);
    let (mut depth, mut begin) = (0, 0);
    for (at, char) in inner.char_indices().chain([(inner.len(), ',')]) {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[begin..at].trim().is_empty() {
                    expand(&inner[begin..at], &prefix, paths);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// Every path in the code that may lead to another module: of `use` trees, and `crate::` and `super::` in between.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some((line, behind)) = rest.split_once('\n') {
        let statement = line.trim_start();
        let tree = statement.strip_prefix("use ").or_else(|| statement.split_once(" use ")?.1.into());
        let is_use = ["use ", "pub use ", "pub(super) use ", "pub(crate) use "];
        if let Some(tree) = tree.filter(|_| is_use.iter().any(|begin| statement.starts_with(begin))) {
            let all = &rest[rest.find(tree).unwrap()..];
            let tree = all.split(';').next().unwrap();
            expand(&tree.split_whitespace().collect::<Vec<_>>().join(" "), "", &mut paths);
        }
        rest = behind;
    }
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap();
            // A tree is in a `use`, which was looked at.
            if !rest[end..].starts_with('{') {
                paths.push(rest[..end].trim_end_matches(':').to_owned());
            }
        }
    }
    paths
}

/// The module, other than itself, that a path in `module` leads to.
fn target(module: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let path = path.replace(' ', "");
    let mut at: Vec<&str> = module.split("::").filter(|s| !s.is_empty()).collect();
    let mut segments = path.split("::").peekable();
    match *segments.peek()? {
        "crate" => {
            segments.next();
            at.clear();
        }
        "self" => {
            segments.next();
        }
        "super" => {}
        // Of another crate, or a child.
        child if modules.contains_key(&join(module, child)) => {}
        _ => return None,
    }
    for segment in segments {
        if segment == "super" {
            at.pop();
            continue;
        }
        at.push(segment);
        if !modules.contains_key(&at.join("::")) {
            at.pop();
            break;
        }
    }
    Some(at.join("::")).filter(|found| found != module && !found.is_empty())
}

fn imports(of: &str) -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules(of);
    let of = |(module, code): (&String, &String)| {
        let found = paths(code).into_iter().filter_map(|path| target(module, &path, &modules)).collect();
        (module.clone(), found)
    };
    modules.iter().map(of).collect()
}

fn floor(floors: Floors, module: &str) -> usize {
    let room = room(module);
    let found = floors.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| panic!("`{room}` has no floor: give it one in {}", file!()))
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn imports_from_lower_floors_alone(of: &str, floors: Floors) {
    let imports = imports(of);
    let mut seen = 0;
    for (module, found) in imports.iter().filter(|(module, _)| !module.is_empty()) {
        for other in found.iter().filter(|other| room(other) != room(module)) {
            assert!(
                floor(floors, other) < floor(floors, module),
                "`{module}` imports from `{other}`, which is not below it"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} imports of {of} were seen: {imports:#?}");
}

#[test]
fn common_s_rooms_import_from_lower_floors_alone() {
    imports_from_lower_floors_alone("common", COMMON);
}

#[test]
fn fs_agent_s_rooms_import_from_lower_floors_alone() {
    imports_from_lower_floors_alone("fs-agent", FS_AGENT);
}

#[test]
fn the_publisher_s_rooms_import_from_lower_floors_alone() {
    imports_from_lower_floors_alone("publisher", PUBLISHER);
}

/// Rooms of fs-agent with files that still import from one another in a circle, through their `mod.rs`. No room may be added.
const CIRCLES: [&str; 7] = ["capture", "fd_store", "mount", "overlay", "state", "supervise", "worker_pool"];

/// The modules that import from themselves by way of others.
fn in_circles(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&str> {
    let reaches_itself = |module: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![module];
        while let Some(from) = next.pop() {
            for other in imports.get(from).into_iter().flatten() {
                if other == module {
                    return true;
                }
                if reached.insert(other.as_str()) {
                    next.push(other);
                }
            }
        }
        false
    };
    imports.keys().map(String::as_str).filter(|module| reaches_itself(module)).collect()
}

#[test]
fn no_files_import_from_one_another_in_a_circle() {
    for of in ["common", "publisher"] {
        let imports = imports(of);
        assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 100, "{of}: {imports:#?}");
        let circles = in_circles(&imports);
        assert!(circles.is_empty(), "{of}: in a circle: {circles:#?}");
    }
}

#[test]
fn the_agents_circles_become_fewer() {
    let imports = imports("fs-agent");
    let circles = in_circles(&imports);
    let rooms: BTreeSet<&str> = circles.iter().map(|module| room(module)).collect();
    assert_eq!(rooms, BTreeSet::from(CIRCLES), "take out of CIRCLES what is in none: {circles:#?}");
}

#[test]
fn a_circle_is_found() {
    let module =
        |name: &str, found: &[&str]| (name.to_owned(), found.iter().map(|&f| f.to_owned()).collect());
    let imports = [module("a", &["b"]), module("b", &["c"]), module("c", &["b", "d"]), module("d", &[])];
    let imports = imports.into_iter().collect();
    assert_eq!(in_circles(&imports), BTreeSet::from(["b", "c"]));
}
