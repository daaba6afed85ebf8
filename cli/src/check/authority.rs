//! The checks of the authority's roots, and of the certificate that it signs with.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use x509_parser::pem::Pem;

use super::Line;
use super::facts::{Facts, ROOTS};
use super::judge::{fail, ok, warn};

/// A month is enough to rotate a root with every overlap that it needs.
const ROOT_DAYS: i64 = 30;

/// Seconds.
const DAY: i64 = 86_400;

/// Whether the roots are published, and how long they and the signing certificate are good.
pub(super) fn roots(facts: &Facts) -> Vec<Line> {
    let id = "ca.roots";
    // Where Istio publishes none either (ca.md 5), and namespaces that end.
    let exempt = ["kube-public", "kube-node-lease", "local-path-storage"];
    let wanted = facts.namespaces.iter().filter(|n| n.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any);
    let missing: Vec<String> =
        wanted.filter(|n| !exempt.contains(&n.as_str()) && !facts.roots.contains_key(n)).collect();
    let mut lines = vec![match missing.is_empty() {
        true => ok(id, format!("ConfigMap {ROOTS} is in every namespace")),
        false => fail(
            id,
            format!("ConfigMap {ROOTS} is missing in {}", missing.join(", ")),
            "the authority writes it; see its log",
        ),
    }];
    let mut bundles: Vec<&String> = facts.roots.values().collect();
    bundles.sort_unstable();
    bundles.dedup();
    if bundles.len() > 1 {
        lines.push(warn(
            id,
            "namespaces hold different roots",
            "the authority repairs them within seconds; see its log",
        ));
    }
    let now = Timestamp::now().as_second();
    lines.extend(facts.signer.map(|end| signing(end, now)));
    let ends = bundles.iter().map(|pem| ends(pem));
    lines.extend(ends.map(|ends| expiry(&ends, facts.signer.is_some(), now)));
    lines
}

/// When the certificates of a bundle end.
fn ends(pem: &str) -> Vec<i64> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
    blocks.filter_map(|block| Some(block.parse_x509().ok()?.validity().not_after.timestamp())).collect()
}

/// What to do about a certificate of the authority that ends.
const ROTATE: &str = "culvert-ca rotate status; rotate with overlap as docs/identity.md says";

/// The certificate that signs: with it end all that it signed.
fn signing(end: i64, now: i64) -> Line {
    let id = "ca.expiry";
    match (end - now).div_euclid(DAY) {
        days if days < 0 => fail(id, "the authority's signing certificate has expired", ROTATE),
        days if days < ROOT_DAYS => {
            warn(id, format!("the authority's signing certificate ends in {days} days"), ROTATE)
        }
        days => ok(id, format!("the authority's signing certificate is valid for {days} days")),
    }
}

/// The roots of one bundle. Of several one is on its way in or out: when it is known what signs, the others may end; else any
/// of them may be the one that matters.
fn expiry(ends: &[i64], signer_known: bool, now: i64) -> Line {
    let id = "ca.expiry";
    let days = |end: &i64| (end - now).div_euclid(DAY);
    let (Some(first), Some(last)) = (ends.iter().min().map(days), ends.iter().max().map(days)) else {
        return fail(id, "a published root is no certificate", "the authority repairs it; see its log");
    };
    if last < 0 {
        return fail(id, "every root has expired", ROTATE);
    }
    match if signer_known { last } else { first } {
        days if days < 0 => {
            warn(id, "a root of several has expired, and the authority does not say which one signs", ROTATE)
        }
        days if days < ROOT_DAYS => warn(id, format!("the root ends in {days} days"), ROTATE),
        days => ok(id, format!("the root is valid for {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_certificate_that_signs_is_judged_and_else_the_first_root_that_ends() {
        let day = |days: i64| days * DAY + 1;
        for (roots, signer, wanted) in [
            (&[day(400)][..], None, &[State::Ok][..]),
            (&[day(10)], None, &[State::Warn]),
            (&[-1], None, &[State::Fail]),
            (&[], None, &[State::Fail]),
            // Halfway through a rotation nobody says which one signs.
            (&[day(10), day(3650)], None, &[State::Warn]),
            (&[-1, day(3650)], None, &[State::Warn]),
            // The new one signs, and the old one may end.
            (&[-1, day(3650)], Some(day(3650)), &[State::Ok, State::Ok]),
            // The old one still signs, or an intermediate ends before its root.
            (&[day(10), day(3650)], Some(day(10)), &[State::Warn, State::Ok]),
            (&[day(3650)], Some(-1), &[State::Fail, State::Ok]),
        ] {
            let told = signer.map(|end| signing(end, 0)).into_iter().chain([expiry(roots, signer.is_some(), 0)]);
            let states: Vec<State> = told.map(|line| line.state).collect();
            assert_eq!(states, wanted, "{roots:?} {signer:?}");
        }
        let facts = Facts {
            roots: [("a".to_owned(), "x".to_owned()), ("b".to_owned(), "y".to_owned())].into(),
            ..Facts::default()
        };
        let failed = roots(&facts).into_iter().filter(|l| l.id == "ca.expiry" && l.state == State::Fail);
        assert_eq!(failed.count(), 2, "each bundle");
    }
}
