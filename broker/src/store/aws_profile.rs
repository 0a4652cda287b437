//! Static credentials, region and endpoint from the AWS tools' files.
//!
//! object_store reads the `AWS_*` environment, web identity, container and instance credentials by itself; what it does
//! not read are `~/.aws/credentials` and `~/.aws/config` (or `AWS_SHARED_CREDENTIALS_FILE`, `AWS_CONFIG_FILE`), with
//! the profile that `AWS_PROFILE` names. Profiles that need a program or a login (`credential_process`, SSO, role
//! chaining) are refused when they were asked for by name, rather than passed over in silence.
//! The keys are read again while the broker runs ([`rotating_keys`](super::rotating_keys)).

use std::collections::HashMap;
use std::path::PathBuf;

use super::Error;

#[derive(Debug, Default)]
pub(super) struct Profile {
    pub keys: Option<Keys>,
    pub region: Option<String>,
    pub endpoint: Option<String>,
}

pub(super) struct Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Keys(redacted)")
    }
}

pub(super) fn load() -> Result<Profile, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home_file = |name: &str| variable("HOME").map(|home| PathBuf::from(home).join(".aws").join(name));
    let read =
        |path: Option<PathBuf>| path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let credentials =
        read(variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(|| home_file("credentials")));
    let config = read(variable("AWS_CONFIG_FILE").map(PathBuf::from).or_else(|| home_file("config")));
    let named = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    select(&credentials, &config, named.as_deref())
}

/// The profile `named`, or `default`, out of the two files' texts.
fn select(credentials: &str, config: &str, named: Option<&str>) -> Result<Profile, Error> {
    let name = named.unwrap_or("default");
    let config_section = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let mut values = section(config, &config_section);
    // The credentials file wins where both have a key.
    values.extend(section(credentials, name));
    let get = |key: &str| values.get(key).filter(|value| !value.is_empty()).cloned();
    let keys = match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Some(Keys { access_key_id, secret_access_key, session_token: get("aws_session_token") })
        }
        _ => None,
    };
    if keys.is_none() && named.is_some() {
        let detail = match ["credential_process", "sso_session", "sso_start_url", "source_profile"]
            .into_iter()
            .find(|key| values.contains_key(*key))
        {
            Some(key) => format!(
                "it uses {key}, which Ottla does not run. Export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, \
                 for example with `aws configure export-credentials --format env`"
            ),
            None => "it has no aws_access_key_id and aws_secret_access_key in the AWS files".to_owned(),
        };
        // Explicit keys in the environment outrank the profile, as they do for the AWS tools.
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            return Err(Error::Profile { profile: name.to_owned(), detail });
        }
    }
    Ok(Profile { keys, region: get("region"), endpoint: get("endpoint_url") })
}

/// The keys of one section of an INI file, in the AWS tools' dialect.
fn section(text: &str, name: &str) -> HashMap<String, String> {
    let mut inside = false;
    let mut values = HashMap::new();
    for line in text.lines() {
        // Indented lines belong to a nested setting such as `s3 =`; none of those matter here.
        if line.starts_with([' ', '\t']) || line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = header.split_whitespace().eq(name.split_whitespace());
        } else if inside && let Some((key, value)) = line.split_once('=') {
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "
# a comment
[default]
aws_access_key_id = AKID
aws_secret_access_key=secret=with=equals
[work]
aws_access_key_id = WORK
aws_secret_access_key = w
aws_session_token = t
";
    const CONFIG: &str = "
[default]
region = eu-central-1
s3 =
  addressing_style = path
[profile work]
region = us-west-2
endpoint_url = http://127.0.0.1:9000
[profile login]
sso_session = corp
";

    #[test]
    fn the_default_profile_is_read_from_both_files() {
        let profile = select(CREDENTIALS, CONFIG, None).unwrap();
        let keys = profile.keys.unwrap();
        assert_eq!(
            (keys.access_key_id.as_str(), keys.secret_access_key.as_str()),
            ("AKID", "secret=with=equals")
        );
        assert_eq!((profile.region.as_deref(), profile.endpoint), (Some("eu-central-1"), None));
    }

    #[test]
    fn a_named_profile_is_read_from_its_own_sections() {
        let profile = select(CREDENTIALS, CONFIG, Some("work")).unwrap();
        let keys = profile.keys.unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.session_token.as_deref()), ("WORK", Some("t")));
        assert_eq!(profile.region.as_deref(), Some("us-west-2"));
        assert_eq!(profile.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    }

    #[test]
    fn a_profile_that_needs_a_login_is_refused_by_name() {
        let error = select(CREDENTIALS, CONFIG, Some("login")).unwrap_err().to_string();
        assert!(error.contains("sso_session"), "{error}");
    }

    #[test]
    fn no_files_are_no_error() {
        assert!(select("", "", None).unwrap().keys.is_none());
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let profile = select(CREDENTIALS, CONFIG, None).unwrap();
        assert!(!format!("{profile:?}").contains("secret=with"));
    }
}
