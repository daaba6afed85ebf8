//! `${NAME}` in texts of a configuration stands for a variable of the environment, so that one document serves every node
//! (Kubernetes gives a pod its node's name by such a variable only).

use crate::mistake::Mistake;
use crate::tree::{Data, Node};

/// Puts the values of variables into every text of the tree. Keys, and anything but `${` + capital letters, digits, `_` +
/// `}`, are left as they are.
pub(crate) fn expand(node: &mut Node, look_up: &dyn Fn(&str) -> Option<String>, mistakes: &mut Vec<Mistake>) {
    match &mut node.data {
        Data::List(items) => items.iter_mut().for_each(|item| expand(item, look_up, mistakes)),
        Data::Map(entries) => entries.iter_mut().for_each(|entry| expand(&mut entry.value, look_up, mistakes)),
        Data::Text if node.raw.contains("${") => {
            let (text, missing) = replace(&node.raw, look_up);
            node.raw = text.into();
            let at = node.at;
            mistakes.extend(missing.into_iter().map(|name| Mistake {
                // The ledger names the file.
                file: String::new(),
                line: at.line,
                column: at.column,
                field: String::new(),
                what: format!("the environment has no variable {name}"),
                remedy: format!("set {name}, or write the value itself in place of ${{{name}}}"),
            }));
        }
        Data::Bool(_) | Data::Null | Data::Number(_) | Data::Text => {}
    }
}

/// The text with its variables replaced, and the names that have no value.
fn replace(text: &str, look_up: &dyn Fn(&str) -> Option<String>) -> (String, Vec<String>) {
    let (mut made, mut missing, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(start) = rest.find("${") {
        made.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let name = after.split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
        match name {
            None => {
                made.push_str("${");
                rest = after;
            }
            Some(name) => {
                match look_up(name) {
                    Some(value) => made.push_str(&value),
                    None => missing.push(name.to_owned()),
                }
                rest = &after[name.len() + 1..];
            }
        }
    }
    made.push_str(rest);
    (made, missing)
}

fn is_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_uppercase() || b == b'_';
    text.bytes().next().is_some_and(letter) && text.bytes().all(|b| letter(b) || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_nothing_else_is() {
        let look_up = |name: &str| (name == "NODE_NAME").then(|| "node-${X}".to_owned());
        let cases = [
            ("${NODE_NAME}", "node-${X}", &[][..]),
            ("a-${NODE_NAME}.b-${NODE_NAME}", "a-node-${X}.b-node-${X}", &[]),
            ("${lower} $NODE_NAME ${} ${A-B} ${", "${lower} $NODE_NAME ${} ${A-B} ${", &[]),
            ("${GONE}/${NODE_NAME}/${1}", "/node-${X}/${1}", &["GONE"]),
        ];
        for (text, wanted, gone) in cases {
            let (made, missing) = replace(text, &look_up);
            assert_eq!(
                (made.as_str(), &missing.iter().map(String::as_str).collect::<Vec<_>>()[..]),
                (wanted, gone),
                "{text}"
            );
        }
    }
}
