//! A reading of Rust source that is just good enough to list the paths it names: comments and literals are skipped, `use` trees are
//! written out.

/// What is left of the source once comments and literals are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Join,
    Other(char),
}

/// `source` without comments, and with every string or character literal emptied.
pub(crate) fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_bytes(rest)
        } else if let Some(bytes) = literal_bytes(rest, code.chars().last()) {
            code.push_str("\"\"");
            bytes
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// Length of the (nestable) block comment that `text` starts with.
fn block_comment_bytes(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the string or character literal that `text` starts with, `before` being the character in front of it.
fn literal_bytes(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|before| before.is_alphanumeric() || before == '_') {
        return None;
    }
    let prefix = text.find(|c| !"bcr".contains(c))?;
    let (raw, body) = (text[..prefix].contains('r'), &text[prefix..]);
    let hashes = if raw { body.len() - body.trim_start_matches('#').len() } else { 0 };
    if body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        if raw {
            return text[start..].find(&end).map(|at| start + at + end.len());
        }
        return escaped_end(&text[start..], '"').map(|at| start + at);
    }
    if body.starts_with('\'') && prefix <= 1 {
        let inside = &body[1..];
        let one = inside.chars().next()?;
        // 'a is a lifetime, 'a' a character.
        let is_character = one == '\\' || inside[one.len_utf8()..].starts_with('\'');
        return if is_character { escaped_end(inside, '\'').map(|at| prefix + 1 + at) } else { None };
    }
    None
}

/// Where the literal whose inside is `text` ends, after its `quote`.
fn escaped_end(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + quote.len_utf8()),
            _ => {}
        }
    }
    None
}

fn tokens(source: &str) -> Vec<Token> {
    let code = code_only(source);
    let mut tokens = Vec::new();
    let mut rest = code.as_str();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if word > 0 {
            tokens.push(Token::Word(rest[..word].to_owned()));
            rest = &rest[word..];
        } else if let Some(after) = rest.strip_prefix("::") {
            tokens.push(Token::Join);
            rest = after;
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Other(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// Every path of two or more segments that `source` names, and every path of its `use` declarations, written out.
pub(crate) fn named_paths(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if matches!(&tokens[at], Token::Word(_)) {
            at = read_path(&tokens, at, String::new(), &mut paths);
        } else {
            at += 1;
        }
    }
    paths.retain(|path| path.contains("::"));
    paths
}

/// Reads the path or `use` tree at `at` behind `prefix`, appends what it names, returns where it ends.
fn read_path(tokens: &[Token], mut at: usize, prefix: String, paths: &mut Vec<String>) -> usize {
    let mut path = prefix;
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Word(word) => path.push_str(word),
            Token::Other('{') if path.ends_with("::") => {
                at += 1;
                while let Some(token) = tokens.get(at) {
                    match token {
                        Token::Other('}') => return at + 1,
                        Token::Word(_) | Token::Other('{') => at = read_path(tokens, at, path.clone(), paths),
                        _ => at += 1,
                    }
                }
                return at;
            }
            // `std::fs::*`, a turbofish: what stands in front was named.
            _ => break,
        }
        at += 1;
        if tokens.get(at) != Some(&Token::Join) {
            break;
        }
        path.push_str("::");
        at += 1;
    }
    paths.push(path.trim_end_matches("::").to_owned());
    at
}
