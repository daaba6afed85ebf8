//! Users of the machine, by name.

use std::fs;

use crate::error::{Doing, LabError};

/// User and group number of a user.
pub(crate) fn find(name: &str) -> Result<(u32, u32), LabError> {
    let text = fs::read_to_string("/etc/passwd").doing(|| "cannot read /etc/passwd".to_owned())?;
    lookup(&text, name).ok_or_else(|| {
        LabError::Unfit(format!("this machine has no user {name:?}; install the package that makes it, or use another"))
    })
}

// passwd(5): name:password:UID:GID:…
fn lookup(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let fields = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name))?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let text = "root:x:0:0:root:/root:/bin/bash\nredis:x:107:113::/var/lib/redis:/usr/sbin/nologin\n";
        assert_eq!(lookup(text, "redis"), Some((107, 113)));
        assert_eq!(lookup(text, "redi"), None);
    }
}
