//! What a guest is made of: Debian's kernel, an initramfs, a disk.

use crate::tools::{Outcome, find_program, output_of, run};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The modules that are in each initramfs, with all that they need; a machine loads those that it names.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_rng", "ext4", "crc32c_generic", "i6300esb", "softdog"];

/// The package whose newest version depends on the kernel's package. The *cloud* kernel has no i6300esb.
const KERNEL_PACKAGE: &str = "linux-image-amd64";

/// A kernel and those of its modules that are in [`MODULES`].
#[derive(Debug, Clone)]
pub struct Kernel {
    /// vmlinuz.
    pub image: PathBuf,
    /// A folder with `lib/modules/VERSION`.
    modules: PathBuf,
}

/// A file of the guest.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// Absolute, as the guest sees it.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// Whether it can be executed.
    pub is_program: bool,
}

impl GuestFile {
    /// A file with text.
    pub fn text(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), is_program: false }
    }

    /// A script.
    pub fn program(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), is_program: true }
    }
}

/// The files that each guest has.
fn common_files() -> [GuestFile; 5] {
    [
        GuestFile::text("/etc/inittab", include_str!("guest/inittab")),
        GuestFile::program("/etc/guest/setup", include_str!("guest/setup")),
        GuestFile::program("/etc/guest/agent", include_str!("guest/agent")),
        GuestFile::program("/etc/guest/start", include_str!("guest/start")),
        GuestFile::program("/etc/guest/enter", include_str!("guest/enter")),
    ]
}

/// Debian's kernel, downloaded and unpacked into `cache` unless this version is there already: `cache/kernel/PACKAGE`
/// and the list of modules name what is in it, so nothing in it ever has to be looked at again.
pub fn kernel(cache: &Path) -> Outcome<Kernel> {
    let mut package = kernel_package()?;
    if package.is_none() {
        // Images of containers come without lists of packages.
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        package = kernel_package()?;
    }
    let package = &package.ok_or_else(|| format!("apt-cache knows no dependency of {KERNEL_PACKAGE}"))?;
    let policy = output_of(Command::new("apt-cache").args(["policy", package]))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version = version.ok_or_else(|| format!("apt-cache knows no version of {package}"))?;
    let key = format!("{package}_{version}_{:016x}", fingerprint(MODULES));
    let folder = cache.join("kernel").join(key.replace(':', "."));
    let kernel = Kernel { image: folder.join("vmlinuz"), modules: folder.join("modules") };
    if kernel.image.is_file() {
        return Ok(kernel);
    }
    let unpacked = cache.join("kernel-unpacked");
    fresh_folder(&unpacked)?;
    run(Command::new("apt-get")
        .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
        .current_dir(&unpacked))?;
    let package_file = only_entry(&unpacked)?;
    let tree = unpacked.join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&package_file).arg(&tree))?;
    let release = only_entry(&tree.join("lib/modules"))?;
    let release_name = file_name(&release)?;
    // Debian's kmod would do that on installation.
    run(Command::new("busybox").args(["depmod", "-b"]).arg(&tree).arg(&release_name))?;
    let dependencies = fs::read_to_string(release.join("modules.dep")).map_err(|e| format!("modules.dep: {e}"))?;

    fresh_folder(&folder)?;
    let target = kernel.modules.join("lib/modules").join(&release_name);
    for module in with_dependencies(&dependencies, MODULES)? {
        copy(&release.join(module), &target.join(module))?;
    }
    for list in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"] {
        copy(&release.join(list), &target.join(list))?;
    }
    // Last, because it is what tells that all is there.
    copy(&tree.join("boot").join(format!("vmlinuz-{release_name}")), &kernel.image)?;
    remove_folder(&unpacked)?;
    Ok(kernel)
}

/// The package that [`KERNEL_PACKAGE`] stands for now, if apt has lists of packages.
fn kernel_package() -> Outcome<Option<String>> {
    let depends = Command::new("apt-cache").args(["depends", "--important", KERNEL_PACKAGE]).output();
    let depends = depends.map_err(|e| format!("cannot run apt-cache: {e}"))?.stdout;
    let depends = String::from_utf8_lossy(&depends).into_owned();
    Ok(depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned))
}

/// The files of `names` and of all that they need, from the text of `modules.dep` (modules.dep(5)).
fn with_dependencies<'a>(dependencies: &'a str, names: &[&str]) -> Outcome<BTreeSet<&'a str>> {
    let name_of = |file: &str| file.rsplit('/').next().unwrap_or(file).trim_end_matches(".ko").replace('-', "_");
    let mut files = BTreeSet::new();
    let mut open: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = open.pop() {
        let mut entries = dependencies.lines().filter_map(|line| line.split_once(':'));
        let (file, needs) = entries
            .find(|(file, _)| name_of(file) == name)
            .ok_or_else(|| format!("the kernel has no module {name}"))?;
        if files.insert(file) {
            open.extend(needs.split_whitespace().map(name_of));
        }
    }
    Ok(files)
}

/// Writes the initramfs of a machine: busybox, `hale`, the kernel's modules, and `files`, to `archive`.
pub fn initramfs(kernel: &Kernel, hale: &Path, files: &[GuestFile], archive: &Path) -> Outcome {
    let tree = archive.with_extension("tree");
    fresh_folder(&tree)?;
    for folder in ["proc", "sys", "dev", "run", "tmp", "root", "bin", "etc", "var/lib/hale", "var/log", "lib"] {
        make_folder(&tree.join(folder))?;
    }
    let busybox = find_program("busybox").ok_or("no busybox")?;
    copy(&busybox, &tree.join("bin/busybox"))?;
    for applet in output_of(Command::new(&busybox).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        link("busybox", &tree.join("bin").join(applet))?;
    }
    link("bin/busybox", &tree.join("init"))?;
    link("bin", &tree.join("sbin"))?;
    copy(hale, &tree.join("bin/hale"))?;
    // busybox as Debian builds it has none.
    with_libraries("chrt", &tree)?;
    run(Command::new("cp").args(["-r"]).arg(kernel.modules.join("lib")).arg(&tree))?;
    for file in common_files().iter().chain(files) {
        let path = tree.join(file.path.trim_start_matches('/'));
        make_folder(path.parent().unwrap_or(&tree))?;
        fs::write(&path, &file.text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        let mode = if file.is_program { 0o755 } else { 0o644 };
        let mode = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        mode.map_err(|e| format!("cannot set the mode of {}: {e}", path.display()))?;
    }
    pack(&tree, archive)?;
    remove_folder(&tree)
}

/// Copies a program of this machine to `bin`, and the libraries that it is linked with to where it looks for them (ldd(1)).
fn with_libraries(name: &str, tree: &Path) -> Outcome {
    let program = find_program(name).ok_or_else(|| format!("no {name}"))?;
    let libraries = output_of(Command::new("ldd").arg(&program))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), &tree.join(library.trim_start_matches('/')))?;
    }
    copy(&program, &tree.join("bin").join(name))
}

/// Not compressed: the emulated machine would need longer to unpack it than this one to read it. Owned by root,
/// whoever makes it: Hale refuses a configuration that is not.
fn pack(tree: &Path, archive: &Path) -> Outcome {
    let out = fs::File::create(archive).map_err(|e| format!("cannot write {}: {e}", archive.display()))?;
    let mut find = Command::new("find")
        .arg(".")
        .current_dir(tree)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run find: {e}"))?;
    let names = find.stdout.take().ok_or("find has no output")?;
    let cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(tree)
        .stdin(names)
        .stdout(out)
        .status();
    let found = find.wait().is_ok_and(|status| status.success());
    match cpio {
        Ok(status) if status.success() && found => Ok(()),
        Ok(status) => Err(format!("cpio failed: {status}")),
        Err(e) => Err(format!("cannot run cpio: {e}")),
    }
}

/// Makes an ext4 file system of `mib` MiB in the file `disk`, without mounting it: with what is in `content`, or empty.
pub fn disk(disk: &Path, mib: u32, content: Option<&Path>) -> Outcome {
    if disk.exists() {
        fs::remove_file(disk).map_err(|e| format!("cannot remove {}: {e}", disk.display()))?;
    }
    let mut mke2fs = Command::new(find_program("mke2fs").ok_or("no mke2fs")?);
    mke2fs.args(["-q", "-t", "ext4", "-F"]);
    if let Some(folder) = content {
        mke2fs.arg("-d").arg(folder);
    }
    // It says that it makes a regular file, even when told to be quiet.
    output_of(mke2fs.arg(disk).arg(format!("{mib}M"))).map(drop)
}

/// Makes `folder` an empty one.
pub fn fresh_folder(folder: &Path) -> Outcome {
    if folder.exists() {
        remove_folder(folder)?;
    }
    make_folder(folder)
}

fn make_folder(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))
}

pub(super) fn remove_folder(folder: &Path) -> Outcome {
    fs::remove_dir_all(folder).map_err(|e| format!("cannot remove {}: {e}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Outcome {
    if let Some(parent) = to.parent() {
        make_folder(parent)?;
    }
    fs::copy(from, to).map(drop).map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

fn link(target: &str, path: &Path) -> Outcome {
    symlink(target, path).map_err(|e| format!("cannot link {}: {e}", path.display()))
}

fn only_entry(folder: &Path) -> Outcome<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|e| format!("cannot read {}: {e}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    match entries.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(format!("{} has {} entries instead of one", folder.display(), entries.len())),
    }
}

fn file_name(path: &Path) -> Outcome<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| format!("{} has no name", path.display()))
}

/// FNV-1a (RFC draft-eastlake-fnv): tells lists apart that somebody edited, nothing more.
pub(super) fn fingerprint(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a.ko: kernel/x/b-c.ko\nkernel/x/b-c.ko: kernel/d.ko\nkernel/d.ko:\nkernel/e.ko:\n";

    #[test]
    fn modules_come_with_all_that_they_need() {
        let files = with_dependencies(DEP, &["a"]).unwrap();
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["kernel/a.ko", "kernel/d.ko", "kernel/x/b-c.ko"]);
        assert!(with_dependencies(DEP, &["gone"]).is_err());
    }

    #[test]
    fn another_list_has_another_fingerprint() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
    }
}
