//! Who we are at a store in the cloud: what the environment says, and the files that the tools of AWS write.
//!
//! Owns reading `~/.aws/credentials` and `~/.aws/config` (or where the environment says they lie) and the words when nothing
//! is found. Refuses to keep, show or pass on anything secret: values go from here into the client of the store only.
//! Web identities, containers and instances are the client's own, as are Google's and Azure's files.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// Names and values, as in an environment.
pub type Variables = [(String, String)];
/// The sections of a file.
type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// Why nobody could be asked to let us in. No message holds a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// A file that was named is not there, or cannot be read.
    #[error("reading the AWS file `{}`, which {why}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it is read.
        why: String,
        /// What is wrong.
        message: String,
    },
    /// A line that is neither a section nor a setting.
    #[error("the AWS file `{}`, line {line}, is neither `[section]` nor `name = value`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The profile is in neither file.
    #[error("there is no AWS profile `{profile}` in {places}; {known}")]
    NoProfile {
        /// The profile.
        profile: String,
        /// Where it was looked for.
        places: String,
        /// Those that are there, in words.
        known: String,
    },
    /// The profile gets its keys in a way that only the tools of AWS know.
    #[error(
        "AWS profile `{profile}` gets its keys by `{setting}`, which this program cannot do; type `eval \"$(aws configure \
         export-credentials --profile {profile} --format env)\"` and try again"
    )]
    NotHere {
        /// The profile.
        profile: String,
        /// The setting.
        setting: String,
    },
    /// There are none at all.
    #[error(
        "no credentials for S3 were found: AWS_ACCESS_KEY_ID is not set, {files}, and this machine is no instance or container \
         with a role of its own. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or type `aws configure`"
    )]
    None {
        /// What the files say.
        files: String,
    },
}

/// Settings that get keys in a way that this program does not know.
const FOREIGN: [&str; 6] =
    ["sso_session", "sso_start_url", "credential_process", "source_profile", "role_arn", "login_session"];
/// Variables that show that the store's client finds keys by itself.
const BY_ITSELF: [&str; 4] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
];
/// Where an instance of AWS asks for its role.
const INSTANCE: ([u8; 4], u16) = ([169, 254, 169, 254], 80);
/// Time that an instance takes to answer, at most.
const INSTANCE_ANSWERS: Duration = Duration::from_secs(1);

/// The value of a variable that is set and not empty.
fn get<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    variables.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
}

/// True for an answer that means yes.
fn yes(value: Option<&str>) -> bool {
    value.is_some_and(|v| ["true", "1"].contains(&v.to_ascii_lowercase().as_str()))
}

/// What a store at AWS, or one that speaks like it, is to be opened with: variables of the environment that begin with `AWS_`,
/// and for what they leave open the files. Names are those of variables.
pub fn aws(variables: &Variables) -> Result<Vec<(String, String)>, CredentialsError> {
    aws_with(variables, is_instance)
}

fn aws_with(
    variables: &Variables,
    is_instance: impl FnOnce() -> bool,
) -> Result<Vec<(String, String)>, CredentialsError> {
    let mut options: BTreeMap<String, String> =
        variables.iter().filter(|(n, v)| n.starts_with("AWS_") && !v.is_empty()).cloned().collect();
    let files = Files::read(variables)?;
    let profile = files.profile(variables)?;
    let has = |options: &BTreeMap<String, String>, name: &str| options.contains_key(name);
    let mut take = |setting: &str, name: &str| {
        if let Some(value) = profile.settings.get(setting) {
            options.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    };
    // Keys belong together: those of the environment are not mixed with a profile's.
    let own_keys = get(variables, "AWS_ACCESS_KEY_ID").is_some();
    if !own_keys {
        take("aws_access_key_id", "AWS_ACCESS_KEY_ID");
        take("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY");
        take("aws_session_token", "AWS_SESSION_TOKEN");
    }
    if get(variables, "AWS_REGION").or(get(variables, "AWS_DEFAULT_REGION")).is_none() {
        take("region", "AWS_REGION");
    }
    if get(variables, "AWS_ENDPOINT_URL_S3").or(get(variables, "AWS_ENDPOINT_URL")).is_none() {
        take("endpoint_url", "AWS_ENDPOINT_URL");
    }
    let endpoint = options.get("AWS_ENDPOINT_URL_S3").or(options.get("AWS_ENDPOINT_URL"));
    if endpoint.is_some_and(|e| e.starts_with("http://")) {
        // Who writes it that way means it.
        options.entry("AWS_ALLOW_HTTP".to_owned()).or_insert_with(|| "true".to_owned());
    }
    let anonymous = yes(get(variables, "AWS_SKIP_SIGNATURE"));
    if has(&options, "AWS_ACCESS_KEY_ID") || anonymous || BY_ITSELF.iter().any(|name| has(&options, name)) {
        return Ok(options.into_iter().collect());
    }
    if let Some(setting) = FOREIGN.iter().find(|s| profile.settings.contains_key(**s)) {
        return Err(CredentialsError::NotHere { profile: profile.name, setting: (*setting).to_owned() });
    }
    if !yes(get(variables, "AWS_EC2_METADATA_DISABLED")) && is_instance() {
        return Ok(options.into_iter().collect());
    }
    Err(CredentialsError::None { files: files.without_keys(&profile.name) })
}

/// True when something answers where an instance asks for its role.
fn is_instance() -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(INSTANCE), INSTANCE_ANSWERS).is_ok()
}

/// The two files, as far as they are there.
struct Files {
    credentials: (PathBuf, Option<Sections>),
    config: (PathBuf, Option<Sections>),
}

/// A profile.
struct Profile {
    name: String,
    settings: BTreeMap<String, String>,
}

impl Files {
    fn read(variables: &Variables) -> Result<Self, CredentialsError> {
        let home = get(variables, "HOME").or(get(variables, "USERPROFILE")).map(PathBuf::from);
        let one = |variable: &str, file: &str| {
            let named = get(variables, variable).map(PathBuf::from);
            let Some(path) = named.clone().or_else(|| Some(home.as_ref()?.join(".aws").join(file))) else {
                return Ok((PathBuf::from("~/.aws").join(file), None));
            };
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok((path.clone(), Some(sections(&path, &text)?))),
                // Without being named, a file need not be there.
                Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => Ok((path, None)),
                Err(e) => {
                    let why = named.map_or("is where such files lie".into(), |_| format!("{variable} names"));
                    Err(CredentialsError::File { path, why, message: e.to_string() })
                }
            }
        };
        Ok(Self {
            credentials: one("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
            config: one("AWS_CONFIG_FILE", "config")?,
        })
    }

    /// The profile that is chosen, from both files; what lies with the keys wins.
    fn profile(&self, variables: &Variables) -> Result<Profile, CredentialsError> {
        let chosen = get(variables, "AWS_PROFILE").or(get(variables, "AWS_DEFAULT_PROFILE"));
        let name = chosen.unwrap_or("default").to_owned();
        let mut settings = BTreeMap::new();
        let mut found = false;
        let in_config = [format!("profile {name}"), name.clone()];
        for (sections, names) in [
            (&self.config.1, &in_config[if name == "default" { 0..2 } else { 0..1 }]),
            (&self.credentials.1, &in_config[1..]),
        ] {
            let all = names.iter().filter_map(|n| sections.as_ref()?.get(n));
            for section in all {
                found = true;
                settings.extend(section.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        // Keys of the environment need no profile; a profile that was asked for and is not there is a slip.
        if found || chosen.is_none() || get(variables, "AWS_ACCESS_KEY_ID").is_some() {
            return Ok(Profile { name, settings });
        }
        let known = self.known();
        let known = if known.is_empty() { "there is none at all".into() } else { format!("there are: {known}") };
        Err(CredentialsError::NoProfile { profile: name, places: self.places(" or "), known })
    }

    fn known(&self) -> String {
        let config = self.config.1.iter().flatten().map(|(name, _)| name.as_str());
        let config = config.filter_map(|n| n.strip_prefix("profile ").or((n == "default").then_some(n)));
        let keys = self.credentials.1.iter().flatten().map(|(name, _)| name.as_str());
        let all: std::collections::BTreeSet<&str> = config.chain(keys).collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    }

    fn places(&self, between: &str) -> String {
        format!("`{}`{between}`{}`", self.credentials.0.display(), self.config.0.display())
    }

    /// That no file gave keys, in words.
    fn without_keys(&self, profile: &str) -> String {
        match (&self.credentials.1, &self.config.1) {
            (None, None) => format!("there is neither {}", self.places(" nor ")),
            _ => format!("{} have no keys for profile `{profile}`", self.places(" and ")),
        }
    }
}

/// The sections of a file. Settings that are indented belong to the one above them, and are passed over.
fn sections(path: &Path, text: &str) -> Result<Sections, CredentialsError> {
    let mut all = Sections::new();
    let mut section: Option<String> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = || CredentialsError::Line { path: path.to_owned(), line: number };
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let name = rest.split_once(']').ok_or_else(wrong)?.0;
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ").replace(['"', '\''], "");
            all.entry(name.clone()).or_default();
            section = Some(name);
            continue;
        }
        let (key, value) = trimmed.split_once('=').ok_or_else(wrong)?;
        let section = section.as_ref().ok_or_else(wrong)?;
        // A comment after a value begins with a space and its sign.
        let value = value.split(" #").next().unwrap_or(value).split(" ;").next().unwrap_or(value).trim();
        if !value.is_empty() {
            let settings = all.get_mut(section).expect("it was made when its line was read");
            settings.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CREDENTIALS: &str = "\
# keys
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key=default/secret+=
[lab]
AWS_ACCESS_KEY_ID = AKLAB
aws_secret_access_key = labsecret
aws_session_token = labtoken
";
    const CONFIG: &str = "\
[default]
region = eu-central-1
[profile lab]
region = eu-west-3  # near
endpoint_url = http://store.lab:9000
s3 =
  addressing_style = path
[profile \"far away\"]
sso_session = work
[sso-session work]
sso_region = us-east-1
";

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(credentials: Option<&str>, config: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(".aws")).unwrap();
            for (name, text) in [("credentials", credentials), ("config", config)] {
                if let Some(text) = text {
                    fs::write(dir.path().join(".aws").join(name), text).unwrap();
                }
            }
            Self(dir)
        }

        /// What is found with these variables beside HOME, on a machine that is an instance or none.
        fn ask(
            &self,
            variables: &[(&str, &str)],
            instance: bool,
        ) -> Result<BTreeMap<String, String>, CredentialsError> {
            let home = self.0.path().to_str().unwrap();
            let all: Vec<_> =
                variables.iter().chain(&[("HOME", home)]).map(|(n, v)| ((*n).into(), (*v).into())).collect();
            aws_with(&all, || instance).map(|found| found.into_iter().collect())
        }
    }

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn profiles_are_read_from_both_files() {
        let home = Home::new(Some(CREDENTIALS), Some(CONFIG));
        let default = pairs(&[
            ("AWS_ACCESS_KEY_ID", "AKDEFAULT"),
            ("AWS_SECRET_ACCESS_KEY", "default/secret+="),
            ("AWS_REGION", "eu-central-1"),
        ]);
        assert_eq!(home.ask(&[], false).unwrap(), default);
        let lab = home.ask(&[("AWS_PROFILE", "lab")], false).unwrap();
        let expected = pairs(&[
            ("AWS_PROFILE", "lab"),
            ("AWS_ACCESS_KEY_ID", "AKLAB"),
            ("AWS_SECRET_ACCESS_KEY", "labsecret"),
            ("AWS_SESSION_TOKEN", "labtoken"),
            ("AWS_REGION", "eu-west-3"),
            ("AWS_ENDPOINT_URL", "http://store.lab:9000"),
            ("AWS_ALLOW_HTTP", "true"),
        ]);
        assert_eq!(lab, expected);
        // The environment wins, and its keys are not mixed with a session of the file.
        let own = [
            ("AWS_PROFILE", "lab"),
            ("AWS_ACCESS_KEY_ID", "AKOWN"),
            ("AWS_SECRET_ACCESS_KEY", "own"),
            ("AWS_DEFAULT_REGION", "us-east-2"),
            ("AWS_ENDPOINT_URL_S3", "https://s3.here"),
            ("TOKEN", "another program's"),
        ];
        assert_eq!(home.ask(&own, false).unwrap(), pairs(&own[..5]));
    }

    #[test]
    fn files_may_lie_elsewhere() {
        let home = Home::new(None, None);
        let file = |name: &str, text: &str| {
            let path = home.0.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (keys, config) = (file("k", CREDENTIALS), file("c", CONFIG));
        let found = home.ask(&[("AWS_SHARED_CREDENTIALS_FILE", &keys), ("AWS_CONFIG_FILE", &config)], false).unwrap();
        assert_eq!((&*found["AWS_ACCESS_KEY_ID"], &*found["AWS_REGION"]), ("AKDEFAULT", "eu-central-1"));
        let e = home.ask(&[("AWS_CONFIG_FILE", "/nowhere/config")], false).unwrap_err().to_string();
        assert!(e.contains("/nowhere/config") && e.contains("AWS_CONFIG_FILE names"), "{e}");
        // Keys may lie in the file of settings.
        let both = file("b", "[profile x]\naws_access_key_id=A\naws_secret_access_key=B\n");
        assert_eq!(
            home.ask(&[("AWS_CONFIG_FILE", &both), ("AWS_PROFILE", "x")], false).unwrap()["AWS_SECRET_ACCESS_KEY"],
            "B"
        );
    }

    #[test]
    fn what_is_missing_is_said_in_plain_words_and_nothing_secret() {
        let home = Home::new(Some(CREDENTIALS), Some(CONFIG));
        let e = home.ask(&[("AWS_PROFILE", "lap")], false).unwrap_err().to_string();
        assert!(e.contains("no AWS profile `lap`") && e.contains("default, far away, lab"), "{e}");
        let e = home.ask(&[("AWS_PROFILE", "far away")], false).unwrap_err().to_string();
        assert!(e.contains("`sso_session`") && e.contains("export-credentials"), "{e}");
        let none = Home::new(None, None);
        let e = none.ask(&[], false).unwrap_err().to_string();
        for words in [
            "no credentials for S3",
            "AWS_ACCESS_KEY_ID is not set",
            "there is neither",
            "credentials`",
            "aws configure",
        ] {
            assert!(e.contains(words), "{words}: {e}");
        }
        // An instance, a container and a public bucket need none.
        assert!(none.ask(&[], true).unwrap().is_empty());
        assert!(none.ask(&[("AWS_EC2_METADATA_DISABLED", "true")], true).is_err());
        for name in BY_ITSELF {
            none.ask(&[(name, "x")], false).unwrap();
        }
        none.ask(&[("AWS_SKIP_SIGNATURE", "true")], false).unwrap();
        let empty = Home::new(Some("[other]\naws_access_key_id = AKOTHER\n"), None);
        let e = empty.ask(&[], false).unwrap_err().to_string();
        assert!(e.contains("have no keys for profile `default`") && !e.contains("AKOTHER"), "{e}");
        let broken = Home::new(Some("[default]\naws_secret_access_key secret\n"), None);
        let e = broken.ask(&[], false).unwrap_err().to_string();
        assert!(e.contains("line 2") && !e.contains("aws_secret_access_key secret"), "{e}");
        assert!(Home::new(Some("key = 1\n"), None).ask(&[], false).unwrap_err().to_string().contains("line 1"));
    }
}
