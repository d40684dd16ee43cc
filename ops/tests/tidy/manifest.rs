//! As much of Cargo.toml as the checks need: which crates are named as dependencies, and where a version stands.

use super::source::File;

/// A crate's dependencies.
pub struct Manifest {
    /// Where it is.
    pub path: String,
    /// What the crate itself links, on any platform.
    pub dependencies: Vec<String>,
    /// What only its tests and its build use.
    pub others: Vec<String>,
    /// Lines with a dependency that is not taken from the workspace's table.
    pub unshared: Vec<usize>,
}

impl Manifest {
    /// Reads `[dependencies]`, `[dev-dependencies]`, `[build-dependencies]` and their forms per target.
    pub fn read(file: &File) -> Self {
        let mut manifest =
            Self { path: file.path.clone(), dependencies: Vec::new(), others: Vec::new(), unshared: Vec::new() };
        let mut section = String::new();
        for (at, line) in file.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_matches(['[', ']']).to_owned();
                if let Some((table, name)) = section.clone().rsplit_once("dependencies.") {
                    manifest.put(&format!("{table}dependencies"), name);
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section.ends_with("dependencies")) else {
                continue;
            };
            let key = key.trim();
            let name = key.split('.').next().unwrap_or(key);
            manifest.put(&section, name);
            if !key.ends_with(".workspace") && !value.contains("workspace = true") {
                manifest.unshared.push(at);
            }
        }
        manifest
    }

    /// Everything that is named.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.dependencies.iter().chain(&self.others).map(String::as_str)
    }

    fn put(&mut self, section: &str, name: &str) {
        let linked = !section.ends_with("dev-dependencies") && !section.ends_with("build-dependencies");
        let list = if linked { &mut self.dependencies } else { &mut self.others };
        list.push(name.trim_matches('"').to_owned());
    }
}

/// The names in `[workspace.dependencies]`.
pub fn workspace_dependencies(root: &str) -> Vec<String> {
    let inside = root.lines().skip_while(|line| line.trim() != "[workspace.dependencies]").skip(1);
    let entries = inside.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    entries.filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned())).collect()
}
