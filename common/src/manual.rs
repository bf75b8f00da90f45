//! What a manual page says beside the flags: the commands with their own flags, environment, files, exit codes, examples.

use std::{fmt::Write as _, io};

use clap::Command;
use clap_mangen::Man;

/// What differs between the programs.
pub struct Own {
    /// Files and what they are for.
    pub files: &'static [(&'static str, &'static str)],
    /// Signals and what they do.
    pub signals: &'static [(&'static str, &'static str)],
    /// What for, and the command lines.
    pub examples: &'static [(&'static str, &'static str)],
    /// The other pages.
    pub see_also: &'static str,
}

/// Files of both.
const FILES: [(&str, &str); 4] = [
    ("/etc/bywash/bywash.toml", "The configuration; the file itself explains every key."),
    ("/etc/default/bywash", "The environment of the services of systemd."),
    ("/dev/shm/NAME.N.ring, /dev/shm/NAME.N.ack", "The ring NAME; it outlives both services."),
    ("/usr/share/doc/bywash", "The documents."),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "BYWASH_...",
        "Every flag that takes a value: BYWASH_ and the flag in upper case, with _ for -. A flag goes before the environment, that \
         before the file, that before the default.",
    ),
    ("FIFO2KINESIS_...", "The variables of fifo2kinesis; BYWASH_... goes before them."),
    ("RUST_LOG", "What is logged, per module."),
];

const EXIT_STATUS: [(&str, &str); 6] = [
    ("0", "All went well."),
    ("1", "It failed at run time."),
    ("2", "The command line is wrong."),
    ("3", "status: the service is not running, or waits for its ring."),
    ("4", "publisher status --file and --drained: something is not delivered yet."),
    ("78", "The configuration is wrong."),
];

/// The page of a program, for man(1).
///
/// # Errors
/// What clap_mangen says, which writes to memory.
pub fn page(command: &Command, own: &Own) -> io::Result<Vec<u8>> {
    let page = Man::new(command.clone());
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    text.extend(commands(command).bytes());
    page.render_options_section(&mut text)?;
    text.extend(sections(own).bytes());
    page.render_version_section(&mut text)?;
    Ok(text)
}

/// The commands, each with its own flags.
fn commands(command: &Command) -> String {
    let mut page = ".SH COMMANDS\n".to_owned();
    describe(command, command.get_name(), &mut page);
    page
}

/// What follows the flags.
fn sections(own: &Own) -> String {
    let mut page = String::new();
    list("SIGNALS", own.signals, &mut page);
    list("ENVIRONMENT", &ENVIRONMENT, &mut page);
    list("FILES", &[own.files, &FILES].concat(), &mut page);
    list("EXIT STATUS", &EXIT_STATUS, &mut page);
    page.push_str(".SH EXAMPLES\n");
    for (purpose, lines) in own.examples {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(page, "{}\n.PP\n.nf\n.RS 4\n{}\n.RE\n.fi\n.PP", text(purpose), text(lines));
    }
    let _ = writeln!(page, ".SH \"SEE ALSO\"\n{}", text(own.see_also));
    page
}

fn describe(command: &Command, called: &str, page: &mut String) {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        let called = format!("{called} {}", one.get_name());
        let operands: String = one.get_positionals().map(|operand| format!(" {operand}")).collect();
        let about = one.get_long_about().or(one.get_about()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, ".SS \"{}\"\n{}", text(&(called.clone() + &operands)), text(&about));
        // All others are everybody's.
        let is_own = |arg: &&clap::Arg| {
            arg.get_help_heading().is_none() && !arg.is_hide_set() && arg.get_id() != "help"
        };
        for arg in one.get_arguments().filter(is_own) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, ".TP\n\\fB{}\\fR\n{}", text(&arg.to_string()), text(&help));
        }
        describe(one, &called, page);
    }
}

fn list(heading: &str, pairs: &[(&str, &str)], page: &mut String) {
    let _ = writeln!(page, ".SH \"{heading}\"");
    for (name, meaning) in pairs {
        let _ = writeln!(page, ".TP\n\\fB{}\\fR\n{}", text(name), text(meaning));
    }
}

/// A text that roff prints as it is: a line of its own may begin with what would be a request.
fn text(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    let lines: Vec<String> = escaped
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn what_roff_would_obey_is_text() {
        assert_eq!(text("a\n.so /etc/passwd\n'b\\ --c"), "a\n\\&.so /etc/passwd\n\\&'b\\e \\-\\-c");
    }
}
