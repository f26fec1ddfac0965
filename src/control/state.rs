//! What the daemon keeps from one run to the next: the secret that its tokens of RFC 6290 are made from.

use landbridge_proto::crypto::Secret;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where it is, unless `state_dir` or systemd (`StateDirectory=`) says otherwise.
const DEFAULT: &str = "/var/lib/landbridge";
/// RFC 6290 §5.1: "Those 32 bytes, called the "QCD_SECRET", are stored in non-volatile storage on the machine, and kept
/// indefinitely."
const LENGTH: usize = 32;
const NAME: &str = "qcd-secret";

/// The folder: the configured one, the one that systemd made, or the usual one.
pub(super) fn folder(configured: Option<&Path>) -> PathBuf {
    let given = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty());
    // systemd.exec(5): several are separated by colons.
    let first = given.and_then(|list| std::env::split_paths(&list).next());
    configured
        .map(Path::to_owned)
        .or(first)
        .unwrap_or_else(|| PathBuf::from(DEFAULT))
}

/// The secret, which no other daemon of this machine has while this lives.
pub(super) struct TokenSecret {
    pub secret: Secret,
    /// As long as it is open.
    pub lock: File,
}

/// The secret kept in a folder; the first time it is made. One that others could read is none: it is made anew, and peers find
/// out about the next crash only as if there were no tokens.
///
/// RFC 6290 §9.2: a gateway that shares its secret with one that is active, too, would tell anybody the tokens of the other's
/// SAs. So the secret is locked: two daemons in two network namespaces or containers may have one folder by mistake.
///
/// # Errors
/// The folder or the file can't be made, read or written; another daemon has it.
pub(super) fn token_secret(folder: &Path) -> io::Result<TokenSecret> {
    let path = folder.join(NAME);
    match read(&path) {
        Ok(Some(secret)) => return Ok(secret),
        Ok(None) => {
            tracing::warn!(
                path = %path.display(),
                "is no secret of 32 octets that this user alone can read: another is made in its place, and a copy elsewhere is worth nothing now"
            );
            fs::remove_file(&path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut octets = Zeroizing::new([0; LENGTH]);
    getrandom::fill(octets.as_mut_slice()).map_err(io::Error::other)?;
    // Whole or not at all, whenever the power fails; and of two daemons that start at once both have the one that is kept.
    let draft = folder.join(format!(".{NAME}.{}", std::process::id()));
    let written = write(&draft, octets.as_slice()).and_then(|()| match fs::hard_link(&draft, &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    // It may be there already from a life that ended in the middle of this; then the next one succeeds.
    let removed = fs::remove_file(&draft);
    written.and(removed)?;
    File::open(folder)?.sync_all()?;
    read(&path)?.ok_or_else(|| io::Error::other(format!("{} is not what was written", path.display())))
}

/// The secret, if it is one and only we can read it.
fn read(path: &Path) -> io::Result<Option<TokenSecret>> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let about = file.metadata()?;
    let own = about.uid() == fs::metadata("/proc/self")?.uid();
    if !about.is_file() || about.mode() & 0o077 != 0 || !own || about.len() != LENGTH as u64 {
        return Ok(None);
    }
    let mut octets = vec![0; LENGTH];
    file.read_exact(&mut octets)?;
    let secret = Secret::new(octets);
    match file.try_lock() {
        Ok(()) => Ok(Some(TokenSecret { secret, lock: file })),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another gateway that is running has the secret there; give each a state_dir of its own",
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn write(path: &Path, octets: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Of a daemon that has ended since.
    fn secret_of(folder: &Path) -> Secret {
        token_secret(folder).unwrap().secret
    }

    fn fresh(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("landbridge-state-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        folder
    }

    #[test]
    fn the_secret_is_made_once_and_only_we_can_read_it() {
        let folder = fresh("once");
        let first = secret_of(&folder.join("deep"));
        assert_eq!(first.expose().len(), LENGTH);
        assert!(first == secret_of(&folder.join("deep")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.join("deep")), 0o700);
        assert_eq!(mode(&folder.join("deep").join(NAME)), 0o600);
        assert_eq!(fs::read_dir(folder.join("deep")).unwrap().count(), 1);
        assert!(first != secret_of(&folder.join("other")));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn two_that_run_do_not_share_it() {
        let folder = fresh("two");
        let first = token_secret(&folder).unwrap();
        let error = token_secret(&folder).err().unwrap();
        assert!(error.to_string().contains("another gateway"), "{error}");
        drop(first);
        token_secret(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_others_could_read_or_is_no_secret_is_made_anew() {
        let folder = fresh("anew");
        let path = folder.join(NAME);
        let first = secret_of(&folder);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let second = secret_of(&folder);
        assert!(first != second);
        fs::write(&path, [7; LENGTH + 1]).unwrap();
        let third = secret_of(&folder);
        assert!(second != third && third.expose().len() == LENGTH);
        // Neither a link nor a folder is followed or removed.
        fs::rename(&path, folder.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.join("elsewhere"), &path).unwrap();
        assert!(token_secret(&folder).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(token_secret(&folder).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
