//! Names of topics, streams and keys that are made of what is known of an event: `logs.{directory}.{stem}`.

use std::fmt;

/// How many directories below the watched one can be named: `{dir1}` to `{dir9}`.
pub const DIRS_MAX: usize = 9;
/// What a value is called that there is none of.
pub const NO_VALUE: &str = "none";

/// Whether the name of a topic or stream can have this byte: the same for Kafka and Kinesis.
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The absolute path.
    Path,
    /// The last name of the watched directory, or of the one that a FIFO is in.
    Directory,
    /// The so-manieth directory below that, from 1 on.
    Dir(usize),
    /// The file's name.
    File,
    /// The file's name up to its first dot, which a leading one is not.
    Stem,
    /// The name of the user who wrote.
    User,
    /// The machine's name.
    Host,
    /// The tags of `event.tags`, with `-` between.
    Tags,
    /// The value of one of `event.fields`.
    Field(String),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Stands as it is.
    Text(String),
    /// Is replaced.
    Value(Placeholder),
}

/// A text with at least one placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// To the topic or stream of this name.
    Named(String),
    /// To one that the event decides.
    Made(Template),
}

impl Placeholder {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "path" => Self::Path,
            "directory" => Self::Directory,
            "file" => Self::File,
            "stem" => Self::Stem,
            "user" => Self::User,
            "host" => Self::Host,
            "tags" => Self::Tags,
            _ => match (name.strip_prefix("fields."), name.strip_prefix("dir")) {
                (Some(field), _) if !field.is_empty() => Self::Field(field.to_owned()),
                (_, Some(digit)) => {
                    Self::Dir(digit.parse().ok().filter(|n| (1..=DIRS_MAX).contains(n) && digit.len() == 1)?)
                }
                _ => return None,
            },
        })
    }

    /// Whether who may write below a watched directory decides the value.
    fn is_writers(&self) -> bool {
        matches!(self, Self::Path | Self::Dir(_) | Self::File | Self::Stem | Self::User)
    }
}

impl Template {
    /// The template that a text is; none for a text without a brace. `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let (mut pieces, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, behind) = rest[at..].split_at(1);
            if let Some(behind) = behind.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            let Some((name, behind)) = behind.split_once('}').filter(|_| brace == "{") else {
                return Err(format!(
                    "`{text}`: a `{brace}` stands alone: write {{NAME}} for a placeholder, `{{{{` or `}}}}` for the \
                     character itself"
                ));
            };
            let value = Placeholder::parse(name).ok_or_else(|| {
                format!(
                    "`{text}`: {{{name}}} is no placeholder: there are {{path}}, {{directory}}, {{dir1}} to \
                     {{dir{DIRS_MAX}}}, {{file}}, {{stem}}, {{user}}, {{host}}, {{tags}} and {{fields.NAME}}"
                )
            })?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Value(value));
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        let has_braces = text.contains(['{', '}']);
        Ok(has_braces.then(|| Self { text: text.to_owned(), pieces }))
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The fields of events that it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(Placeholder::Field(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether a name can have come of it: whatever stands for its placeholders, at least one character does.
    pub fn matches(&self, name: &str) -> bool {
        fits(&self.pieces, name)
    }
}

fn fits(pieces: &[Piece], name: &str) -> bool {
    match pieces {
        [] => name.is_empty(),
        [Piece::Text(text), rest @ ..] => {
            name.strip_prefix(text.as_str()).is_some_and(|name| fits(rest, name))
        }
        [Piece::Value(_), rest @ ..] => {
            let mut ends = name.char_indices().map(|(at, char)| at + char.len_utf8());
            ends.any(|end| fits(rest, &name[end..]))
        }
    }
}

impl Topic {
    /// The topic of a text of the configuration.
    ///
    /// # Errors
    /// What is wrong with it as a template, and the way out.
    pub(super) fn parse(text: String) -> Result<Self, String> {
        let Some(template) = Template::parse(&text)? else { return Ok(Self::Named(text)) };
        match template.pieces.first() {
            Some(Piece::Value(first)) if first.is_writers() => Err(format!(
                "`{text}` begins with what anybody decides who may write a file, and so could name every topic there is: put a \
                 text in front, such as `logs.{text}`"
            )),
            _ => Ok(Self::Made(template)),
        }
    }

    /// The same, if it is one by the rules for names; of a template those count around its placeholders.
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub(super) fn checked(self, check: impl Fn(String) -> Result<String, String>) -> Result<Self, String> {
        let template = match self {
            Self::Named(name) => return check(name).map(Self::Named),
            Self::Made(template) => template,
        };
        let example: String = template
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Value(_) => "x",
            })
            .collect();
        match check(example) {
            Ok(_) => Ok(Self::Made(template)),
            Err(message) => Err(format!("`{}`, with x for each placeholder: {message}", template.text)),
        }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Made(template) => template.text(),
        }
    }

    /// The name, where events do not decide it.
    pub fn named(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Made(_) => None,
        }
    }

    /// The template, where events decide the name.
    pub fn template(&self) -> Option<&Template> {
        match self {
            Self::Named(_) => None,
            Self::Made(template) => Some(template),
        }
    }
}

impl From<&str> for Topic {
    /// The one of this name.
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &str) -> Vec<Piece> {
        Template::parse(text).unwrap().unwrap().pieces
    }

    #[test]
    fn a_text_is_taken_apart_at_its_placeholders() {
        assert_eq!(Template::parse("logs"), Ok(None));
        let text = |text: &str| Piece::Text(text.to_owned());
        let field = Placeholder::Field("a.b".to_owned());
        assert_eq!(
            pieces("logs.{dir1}{stem}-{fields.a.b}"),
            [
                text("logs."),
                Piece::Value(Placeholder::Dir(1)),
                Piece::Value(Placeholder::Stem),
                text("-"),
                Piece::Value(field)
            ]
        );
        assert_eq!(pieces("{{path}}"), [text("{path}")]);
    }

    #[test]
    fn what_is_no_placeholder_is_named_with_those_that_are() {
        for (wrong, word) in [
            ("logs.{dirr}", "{dirr}"),
            ("logs.{dir0}", "{dir0}"),
            ("logs.{dir10}", "{dir10}"),
            ("logs.{dir01}", "{dir01}"),
            ("logs.{}", "{}"),
            ("logs.{fields.}", "{fields.}"),
        ] {
            let message = Template::parse(wrong).unwrap_err();
            for word in [word, "{path}", "{dir1} to {dir9}", "{fields.NAME}"] {
                assert!(message.contains(word), "`{word}` is not in: {message}");
            }
        }
        for alone in ["logs.{path", "logs.}", "}logs{path}"] {
            assert!(Template::parse(alone).is_err_and(|message| message.contains("stands alone")), "{alone}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(text: String) {
            let _ = Template::parse(&text);
        }

        #[test]
        fn what_came_of_a_template_is_known_as_that(values in prop::collection::vec("[a-z.-]{1,5}", 3)) {
            let template = Template::parse("logs.{dir1}.{dir2}-{stem}").unwrap().unwrap();
            let name = format!("logs.{}.{}-{}", values[0], values[1], values[2]);
            prop_assert!(template.matches(&name));
            prop_assert!(!template.matches(&name[1..]));
        }
    }

    #[test]
    fn another_name_is_not_known() {
        let template = Template::parse("logs.{dir1}.x").unwrap().unwrap();
        for (name, is_one) in
            [("logs.a.x", true), ("logs.a.b.x", true), ("logs..x", false), ("logs.a.xy", false)]
        {
            assert_eq!(template.matches(name), is_one, "{name}");
        }
    }
}
