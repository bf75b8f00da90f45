//! Validation across keys, of the merged configuration (file, environment and flags).

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

use super::{effective::Config, places::Places, problem::Problem, route};

/// As many symbolic links the kernel follows in one path (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Checks what can be said without a look at the machine.
pub(super) fn check(config: &Config, places: &Places<'_>, problems: &mut Vec<Problem>) {
    for (key, dir) in state_dirs(config) {
        if let Some(watched) = config.directories.iter().find(|d| dir.starts_with(&d.path)) {
            problems.push(state_dir_problem(places, key, &dir, &dir, &watched.path));
        }
    }
    route::check(config, places, problems);
}

/// What the services write.
fn state_dirs(config: &Config) -> impl Iterator<Item = (&'static str, PathBuf)> {
    let dirs = [
        ("spool.dir", config.spool_directory()),
        ("failed.dir", config.failed_directory()),
        ("agent.state_dir", config.agent.state_dir.clone()),
    ];
    dirs.into_iter().filter_map(|(key, dir)| Some((key, dir?)))
}

fn state_dir_problem(places: &Places<'_>, key: &str, dir: &Path, leads_to: &Path, watched: &Path) -> Problem {
    let shown = dir.display().to_string();
    let way =
        if dir == leads_to { String::new() } else { format!("leads to `{}`, which ", leads_to.display()) };
    let message = format!(
        "`{shown}` {way}lies in the watched directory `{}`: what is written there would become events itself; choose a \
         place outside",
        watched.display()
    );
    places.problem(key, &shown, message)
}

/// Checks where paths lead.
pub(super) fn check_leads(config: &Config, places: &Places<'_>, problems: &mut Vec<Problem>) {
    let nowhere = |_: &Path| false;
    let watched: Vec<(&Path, PathBuf)> =
        config.directories.iter().map(|d| (d.path.as_path(), resolved(&d.path, &nowhere))).collect();
    let is_watched = |path: &Path| watched.iter().any(|(_, real)| real == path);
    for (i, (path, real)) in watched.iter().enumerate() {
        if let Some((other, other_real)) =
            watched[..i].iter().find(|(_, other)| real.starts_with(other) || other.starts_with(real))
        {
            let shown = path.display().to_string();
            let message = format!(
                "`{shown}` leads to `{}`, and `{}` to `{}`, which contain one another: keep the outer one",
                real.display(),
                other.display(),
                other_real.display()
            );
            problems.push(places.problem("directory.path", &shown, message));
        }
    }
    let around = |path: &Path| {
        let real = resolved(path, &is_watched);
        let watched = watched.iter().find(|(_, watched)| real.starts_with(watched))?;
        Some((real, watched.0))
    };
    for (key, dir) in state_dirs(config) {
        if let Some((real, watched)) = around(&dir) {
            problems.push(state_dir_problem(places, key, &dir, &real, watched));
        }
    }
    for fifo in &config.fifos {
        if let Some((real, watched)) = around(&fifo.path) {
            let shown = fifo.path.display().to_string();
            let message = format!(
                "`{shown}` leads to `{}`, which lies under the watched directory `{}`: put the FIFO elsewhere, such as in /run",
                real.display(),
                watched.display()
            );
            problems.push(places.problem("fifo.path", &shown, message));
        }
    }
}

/// Where an absolute path leads, as far as can be told; not looked at behind a directory at which `ends`. What is not there,
/// or may not be looked at, is taken as it is written.
fn resolved(path: &Path, ends: &impl Fn(&Path) -> bool) -> PathBuf {
    let parts = |path: &Path| -> Vec<OsString> {
        let of = |part: Component<'_>| match part {
            Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
            _ => None,
        };
        path.components().rev().filter_map(of).collect()
    };
    let mut left = parts(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
            _ => at = next,
        }
        if ends(&at) {
            break;
        }
    }
    at.extend(left.into_iter().rev());
    at
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::flags::ConfigArgs;

    #[test]
    fn a_path_is_compared_by_where_it_leads() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        std::fs::create_dir_all(at("w/sub")).unwrap();
        for (target, name) in [("w", "link"), ("link/sub", "deep"), ("loop", "loop"), ("../x", "w/up")] {
            symlink(target, at(name)).unwrap();
        }
        symlink(at("w"), at("absolute")).unwrap();
        let nowhere = |_: &Path| false;
        for (name, expected) in [
            ("link/p", "w/p"),
            ("deep/p", "w/sub/p"),
            ("absolute/gone/p", "w/gone/p"),
            ("loop/p", "loop/p"),
            ("w/up/p", "x/p"),
            ("gone/p", "gone/p"),
        ] {
            assert_eq!(resolved(&at(name), &nowhere), at(expected), "{name}");
        }
        // Behind a watched directory nobody is asked.
        assert_eq!(resolved(&at("link/up/p"), &|path| path == at("w")), at("w/up/p"));
    }

    #[test]
    fn what_leads_into_a_watched_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("w")).unwrap();
        symlink("w", root.path().join("link")).unwrap();
        let refused = |keys: &str, words: &[&str]| {
            let shown = root.path().display().to_string();
            let file = root.path().join("c.toml");
            let text = format!("[[directory]]\npath = \"R/w\"\n{keys}").replace("R/", &format!("{shown}/"));
            std::fs::write(&file, text).unwrap();
            let args = ConfigArgs { config: Some(file.clone()), ..ConfigArgs::default() };
            let message = Config::load(&args).unwrap().check_where_paths_lead(&args).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "`{word}` is not in: {message}");
            }
        };
        refused(
            "[[fifo]]\npath = \"R/p\"\n[[fifo]]\npath = \"R/link/p\"\n",
            &["c.toml:6: fifo.path", "link/p", "w/p"],
        );
        refused("[spool]\ndir = \"R/link/spool\"\n", &["c.toml:4: spool.dir", "link/spool"]);
        refused("[failed]\ndir = \"R/link/f\"\n", &["c.toml:4: failed.dir", "link/f"]);
        refused("[agent]\nstate_dir = \"R/link/s\"\n", &["c.toml:4: agent.state_dir"]);
        refused("[[directory]]\npath = \"R/link\"\n", &["c.toml:4: directory.path", "contain one another"]);
    }
}
