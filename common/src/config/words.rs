//! Closed sets of words, each word for a value.

/// A closed set of words in the configuration.
macro_rules! words {
    ($type:ty: $($word:literal => $value:expr),+) => {
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(format!(
                        "`{text}` is none of {}", [$(concat!("`", $word, "`")),+].join(", ")
                    )),
                }
            }
        }
        impl $type {
            /// All words of the configuration that stand for one.
            #[cfg(test)]
            pub(crate) const WORDS: &[&'static str] = &[$($word),+];

            /// The word that stands for it in the configuration.
            pub fn word(self) -> &'static str {
                [$(($word, $value)),+].into_iter().find(|(_, v)| *v == self).map_or("", |(w, _)| w)
            }
        }
    };
}

pub(super) use words;
