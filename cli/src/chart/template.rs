//! The part of Helm's template language that our charts are written in, so that `culvert install` and `helm install` make
//! the same objects of the same files. What is not in this part is an error here and never rendered wrongly.
//!
//! Text with actions `{{ … }}`; `{{-` and `-}}` take the white space beside them away. Actions: `if`, `else if`, `else`,
//! `range` and `with` up to `end`, and pipelines of fields (`.Values.a.b`, `$`), literals, parentheses and the functions in
//! [`super::function`]. (Go's text/template; Helm's "Template Functions and Pipelines".)

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

use super::function;

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct TemplateError {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) what: String,
}

type Made<T> = Result<T, TemplateError>;

/// Renders a template for `root`, which is `.` and `$`.
///
/// # Errors
/// What is not part of the language, or a function that does not fit its arguments.
pub(crate) fn render(text: &str, root: &Value) -> Made<String> {
    let mut pieces = pieces(text)?.into_iter().peekable();
    let body = block(&mut pieces, None)?;
    let mut out = String::new();
    run(&body.nodes, root, root, &mut out)?;
    Ok(out)
}

/// Text or the inside of an action, with its line.
enum Piece {
    Action(usize, String),
    Text(String),
}

fn pieces(text: &str) -> Made<Vec<Piece>> {
    let (mut made, mut rest, mut line, mut trim) = (Vec::new(), text, 1, false);
    loop {
        let Some(start) = rest.find("{{") else {
            made.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
            return Ok(made);
        };
        let before = &rest[..start];
        line += before.matches('\n').count();
        let mut shown = if trim { before.trim_start() } else { before };
        let inside = &rest[start + 2..];
        let end = inside
            .find("}}")
            .ok_or_else(|| TemplateError { line, what: "an action has no end; close it with }}".to_owned() })?;
        let (action, left) = match inside[..end].strip_prefix('-') {
            Some(action) => (action, true),
            None => (&inside[..end], false),
        };
        if left {
            shown = shown.trim_end();
        }
        made.push(Piece::Text(shown.to_owned()));
        let (action, right) = match action.strip_suffix('-') {
            Some(action) => (action, true),
            None => (action, false),
        };
        if !action.trim().starts_with("/*") {
            made.push(Piece::Action(line, action.trim().to_owned()));
        }
        line += inside[..end].matches('\n').count();
        trim = right;
        rest = &inside[end + 2..];
    }
}

/// What a template is made of.
enum Node {
    If(Vec<(usize, Expr, Vec<Node>)>, Vec<Node>),
    Print(usize, Expr),
    Range(usize, Expr, Vec<Node>),
    Text(String),
    With(usize, Expr, Vec<Node>),
}

/// A value to compute.
pub(crate) enum Expr {
    Call(String, Vec<Expr>),
    /// From `.` (false) or `$` (true) down.
    Field(bool, Vec<String>),
    Literal(Value),
}

struct Block {
    nodes: Vec<Node>,
    /// The action that ended it: `end`, `else` or `else if …`; none at the end of the file.
    ended: Option<(usize, String)>,
}

/// `opened` is the line of the action whose body this is; none for the whole file.
fn block(pieces: &mut Peekable<IntoIter<Piece>>, opened: Option<usize>) -> Made<Block> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let (line, action) = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(line, action) => (line, action),
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "if" => nodes.push(condition(line, rest, pieces)?),
            "range" | "with" => {
                let expr = parse(line, rest)?;
                let body = closed(line, block(pieces, Some(line))?)?;
                nodes.push(if word == "range" { Node::Range(line, expr, body) } else { Node::With(line, expr, body) });
            }
            "end" | "else" if opened.is_some() => return Ok(Block { nodes, ended: Some((line, action)) }),
            "end" | "else" => return Err(TemplateError { line, what: format!("`{word}` belongs to nothing") }),
            _ => nodes.push(Node::Print(line, parse(line, &action)?)),
        }
    }
    match opened {
        Some(line) => Err(TemplateError { line, what: "`end` is missing".to_owned() }),
        None => Ok(Block { nodes, ended: None }),
    }
}

/// The body of what has no `else`.
fn closed(line: usize, body: Block) -> Made<Vec<Node>> {
    match body.ended {
        Some((_, word)) if word == "end" => Ok(body.nodes),
        _ => Err(TemplateError { line, what: "`else` is only known after `if`".to_owned() }),
    }
}

fn condition(line: usize, first: &str, pieces: &mut Peekable<IntoIter<Piece>>) -> Made<Node> {
    let mut branches = Vec::new();
    let (mut at, mut expr) = (line, parse(line, first)?);
    loop {
        let Block { nodes, ended } = block(pieces, Some(at))?;
        let (next, word) = ended.ok_or(TemplateError { line, what: "`end` is missing".to_owned() })?;
        branches.push((at, expr, nodes));
        if word == "end" {
            return Ok(Node::If(branches, Vec::new()));
        }
        let after = word.trim_start_matches("else").trim();
        let Some(rest) = after.strip_prefix("if ") else {
            let otherwise = closed(next, block(pieces, Some(next))?)?;
            return Ok(Node::If(branches, otherwise));
        };
        (at, expr) = (next, parse(next, rest)?);
    }
}

fn parse(line: usize, text: &str) -> Made<Expr> {
    let fail = |what: String| TemplateError { line, what };
    let tokens = tokens(text).map_err(fail)?;
    let mut tokens = tokens.into_iter().peekable();
    let expr = pipeline(&mut tokens).map_err(fail)?;
    match tokens.next() {
        None => Ok(expr),
        Some(more) => Err(fail(format!("{more:?} is too much in {text:?}"))),
    }
}

type Tokens = Peekable<IntoIter<String>>;

fn tokens(text: &str) -> Result<Vec<String>, String> {
    let (mut made, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | '|' => 1,
            '"' => 2 + rest[1..].find('"').ok_or_else(|| format!("a text has no end in {text:?}"))?,
            _ => rest.find([' ', '\t', '\n', '(', ')', '|']).unwrap_or(rest.len()),
        };
        made.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(made)
}

/// `call | call | …`: each result is the last argument of the next.
fn pipeline(tokens: &mut Tokens) -> Result<Expr, String> {
    let mut expr = call(tokens, None)?;
    while tokens.next_if(|t| t == "|").is_some() {
        expr = call(tokens, Some(expr))?;
    }
    Ok(expr)
}

fn call(tokens: &mut Tokens, piped: Option<Expr>) -> Result<Expr, String> {
    let head = tokens.next().ok_or("an expression is missing")?;
    if !head.starts_with(|c: char| c.is_ascii_alphabetic()) || matches!(&*head, "true" | "false" | "nil") {
        return match piped {
            None => term(&head, tokens),
            Some(_) => Err(format!("{head:?} is no function")),
        };
    }
    let mut arguments = Vec::new();
    while let Some(token) = tokens.next_if(|t| t != ")" && t != "|") {
        arguments.push(term(&token, tokens)?);
    }
    arguments.extend(piped);
    Ok(Expr::Call(head, arguments))
}

fn term(token: &str, tokens: &mut Tokens) -> Result<Expr, String> {
    let path = |text: &str| text.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    if token == "(" {
        let inner = pipeline(tokens)?;
        return if tokens.next().as_deref() == Some(")") { Ok(inner) } else { Err("`)` is missing".to_owned()) };
    }
    if let Some(text) = token.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        return Ok(Expr::Literal(text.into()));
    }
    if let Some(rest) = token.strip_prefix('$') {
        return Ok(Expr::Field(true, path(rest)));
    }
    if token.starts_with('.') {
        return Ok(Expr::Field(false, path(token)));
    }
    // A call without arguments inside another one's, as `dict`, is not part of the language.
    serde_json::from_str(token).map(Expr::Literal).map_err(|_| format!("{token:?} is not understood"))
}

fn run(nodes: &[Node], dot: &Value, root: &Value, out: &mut String) -> Made<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(line, expr) => out.push_str(&function::text(&eval(*line, expr, dot, root)?)),
            Node::If(branches, otherwise) => {
                let mut chosen = otherwise;
                for (line, expr, body) in branches {
                    if function::truth(&eval(*line, expr, dot, root)?) {
                        chosen = body;
                        break;
                    }
                }
                run(chosen, dot, root, out)?;
            }
            Node::With(line, expr, body) => {
                let value = eval(*line, expr, dot, root)?;
                if function::truth(&value) {
                    run(body, &value, root, out)?;
                }
            }
            Node::Range(line, expr, body) => match eval(*line, expr, dot, root)? {
                Value::Array(items) => items.iter().try_for_each(|item| run(body, item, root, out))?,
                Value::Null => {}
                other => {
                    return Err(TemplateError { line: *line, what: format!("range over {other}, which is no list") });
                }
            },
        }
    }
    Ok(())
}

fn eval(line: usize, expr: &Expr, dot: &Value, root: &Value) -> Made<Value> {
    match expr {
        Expr::Literal(value) => Ok(value.clone()),
        Expr::Field(from_root, path) => {
            let mut at = if *from_root { root } else { dot };
            for (index, step) in path.iter().enumerate() {
                // As Go: a missing key is nothing, a key of nothing is an error.
                at = match at {
                    Value::Object(map) => map.get(step).unwrap_or(&Value::Null),
                    _ => {
                        let what = format!("{:?} has no {step:?}", path[..index].join("."));
                        return Err(TemplateError { line, what });
                    }
                };
            }
            Ok(at.clone())
        }
        Expr::Call(name, arguments) => {
            let values: Made<Vec<Value>> = arguments.iter().map(|a| eval(line, a, dot, root)).collect();
            function::call(name, &values?).map_err(|what| TemplateError { line, what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_render_as_helm_does() {
        let root = json!({"Values": {"on": true, "off": false, "n": 3, "name": "a b", "list": ["x", "y"],
            "map": {"k": "v", "a": [1, {"b": true}]}, "none": {}, "empty": ""}});
        let cases = [
            ("plain", "plain"),
            ("a {{ .Values.n }} b", "a 3 b"),
            ("a\n  {{- if .Values.on }}\n  yes\n  {{- else }}\n  no\n  {{- end }}\nb", "a\n  yes\nb"),
            ("{{ if .Values.off }}1{{ else if eq .Values.n 3 }}2{{ else }}3{{ end }}", "2"),
            ("{{ range .Values.list }}<{{ . }}{{ $.Values.n }}>{{ end }}", "<x3><y3>"),
            ("{{ with .Values.map }}{{ .k }}{{ end }}{{ with .Values.none }}no{{ end }}", "v"),
            ("{{ .Values.name | quote }}", "\"a b\""),
            ("{{ .Values.gone | default \"d\" }}{{ default 4 .Values.n }}", "d3"),
            ("m:\n  {{- toYaml .Values.map | nindent 2 }}\n", "m:\n  a:\n  - 1\n  - b: true\n  k: v\n"),
            ("{{ if and .Values.on (not .Values.empty) }}ok{{ end }}", "ok"),
            ("{{/* a comment */}}x{{- /* another */ -}}  y", "xy"),
            ("{{ if or .Values.off .Values.name }}{{ ne .Values.n 4 }}{{ end }}", "true"),
        ];
        for (template, wanted) in cases {
            assert_eq!(render(template, &root).as_deref(), Ok(wanted), "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let root = json!({"Values": {"n": 3}});
        for (template, wanted) in [
            ("\n{{ if .Values.n }}", "line 2: `end` is missing"),
            ("{{ end }}", "line 1: `end` belongs to nothing"),
            ("a\n\n{{ tpl .Values.n }}", "line 3: the function \"tpl\" is not known here"),
            ("{{ .Values.n.x }}", "line 1: \"Values.n\" has no \"x\""),
            ("{{ range .Values.n }}{{ end }}", "line 1: range over 3, which is no list"),
            ("{{ .Values.n", "line 1: an action has no end; close it with }}"),
            ("{{ (.Values.n }}", "line 1: `)` is missing"),
            ("{{ $x := 3 }}", "line 1: \":=\" is too much in \"$x := 3\""),
        ] {
            assert_eq!(render(template, &root).map_err(|e| e.to_string()), Err(wanted.to_owned()), "{template}");
        }
    }
}
