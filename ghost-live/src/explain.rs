//! Says what is wrong with a configuration file: which file, line and key, and which key was probably meant.

use std::{fmt, ops::Range, path::PathBuf};

/// What is wrong with a configuration file, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file.
    pub(crate) file: PathBuf,
    /// Line and column, from 1, where they are known.
    pub(crate) at: Option<(usize, usize)>,
    /// The key with its tables, such as `ingest.rtmp_listen`, where it is known.
    pub(crate) key: Option<String>,
    /// What is wrong.
    pub(crate) what: String,
    /// The key that was probably meant, or the keys that there are.
    pub(crate) hint: Option<String>,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Explains why `text` could not be read as a configuration.
pub(crate) fn explain(file: PathBuf, text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span();
    let message = error.message().trim();
    let unknown =
        quoted(message, "unknown field `").or_else(|| quoted(message, "unknown variant `"));
    let Some(unknown) = unknown else {
        return Problem {
            file,
            at: span.as_ref().map(|span| line_and_column(text, span.start)),
            key: span
                .map(|span| key_path(text, span.start, None))
                .filter(|key| !key.is_empty()),
            what: message.lines().collect::<Vec<_>>().join(" "),
            hint: None,
        };
    };
    let expected = expected(message);
    let is_key = message.starts_with("unknown field");
    let nearest = nearest(unknown, &expected);
    let hint = match (nearest, expected.is_empty()) {
        (Some(nearest), _) => Some(format!("did you mean `{nearest}`?")),
        (None, false) => Some(format!("there is: {}", expected.join(", "))),
        (None, true) => None,
    };
    let position = span.map(|span| unknown_position(text, span, unknown));
    Problem {
        file,
        at: position.map(|at| line_and_column(text, at)),
        key: position.map(|at| key_path(text, at, is_key.then_some(unknown))),
        what: match is_key {
            true => "there is no such key".to_owned(),
            false => format!("`{unknown}` is not one of its values"),
        },
        hint,
    }
}

/// The parser's span can be the table around the key: look for the key itself inside it.
fn unknown_position(text: &str, span: Range<usize>, unknown: &str) -> usize {
    text.get(span.clone())
        .and_then(|part| part.find(unknown))
        .map_or(span.start, |at| span.start + at)
}

fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message.split_once(before)?.1.split('`').next()
}

/// The names that a parser's message says it would have taken.
pub(crate) fn expected(message: &str) -> Vec<&str> {
    let Some((_, list)) = message.split_once("expected ") else {
        return Vec::new();
    };
    list.split('`').skip(1).step_by(2).collect()
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// The tables that are open at `at`, and the key of its line.
fn key_path(text: &str, at: usize, key: Option<&str>) -> String {
    let line_end = text
        .get(at..)
        .and_then(|rest| rest.find('\n'))
        .map_or(text.len(), |end| at + end);
    let upto = text.get(..line_end).unwrap_or(text);
    let table = upto.lines().rev().find_map(|line| {
        let line = line.trim();
        line.strip_prefix("[[")
            .or_else(|| line.strip_prefix('['))
            .and_then(|rest| rest.split(']').next())
    });
    let on_line = upto
        .lines()
        .last()
        .and_then(|line| line.split_once('='))
        .map(|(key, _)| key.trim());
    [table, key.or(on_line)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(".")
}

/// The candidate with the fewest edits, if there are few enough for it to be a slip.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (edits(word, candidate), *candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= 1 + candidate.len() / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        web: Inner,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        listen: String,
        limit: u32,
        kind: Kind,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        Refuse,
        Replace,
    }

    fn problem(text: &str) -> Problem {
        explain(
            "ghost-live.toml".into(),
            text,
            &toml::from_str::<Outer>(text).unwrap_err(),
        )
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_valid_key() {
        let problem = problem("# comment\n[web]\nlimit = 3\nlisten_ = \"x\"\n");
        assert_eq!(
            problem.to_string(),
            "ghost-live.toml:4:1: web.listen_: there is no such key; did you mean `listen`?"
        );
    }

    #[test]
    fn a_misspelt_table_is_named() {
        let problem = problem("[wbe]\nlimit = 3\n");
        assert_eq!(problem.at.unwrap().0, 1);
        assert_eq!(problem.hint.unwrap(), "did you mean `web`?");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        let problem = problem("[web]\nlimit = \"many\"\n");
        assert_eq!(problem.at, Some((2, 9)));
        assert_eq!(problem.key.unwrap(), "web.limit");
        assert!(problem.what.contains("expected u32"), "{}", problem.what);
    }

    #[test]
    fn a_value_that_is_not_one_of_the_choices_gets_the_nearest() {
        let problem = problem("[web]\nkind = \"refuze\"\n");
        assert_eq!(problem.key.unwrap(), "web.kind");
        assert_eq!(problem.hint.unwrap(), "did you mean `refuse`?");
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        let problem = problem("[web]\nsomething_else_entirely = 1\n");
        assert_eq!(problem.hint.unwrap(), "there is: listen, limit, kind");
    }
}
