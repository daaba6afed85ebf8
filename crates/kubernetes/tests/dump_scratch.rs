//! scratch
#[test]
fn dump() {
    let items = kubernetes::object::crds();
    let list = serde_json::json!({"apiVersion":"v1","kind":"List","items":items});
    std::fs::write("/tmp/crds.json", serde_json::to_string(&list).unwrap()).unwrap();
}
