//! What stores say when something is not as it has to be, and what to do about it.

/// Words in an error's text, and the advice that they lead to; the first that is found counts.
const ADVICE: [(&str, &str); 11] = [
    ("NoSuchBucket", "The bucket does not exist. `ottla store create` creates it; give it the same options."),
    ("ContainerNotFound", "The container does not exist. Create it: az storage container create --name NAME"),
    ("InvalidAccessKeyId", UNKNOWN_KEY),
    ("SignatureDoesNotMatch", "The secret key is not the one of the access key."),
    ("ExpiredToken", "The keys were those of a session that has ended. Renew them."),
    ("AuthorizationHeaderMalformed", OTHER_REGION),
    ("PermanentRedirect", OTHER_REGION),
    // object_store's words where S3 redirects without saying where to.
    ("incorrectly configured region", OTHER_REGION),
    ("AuthenticationFailed", "The key is not one of the storage account (AZURE_STORAGE_ACCOUNT_KEY)."),
    // Where all clouds have the roles of their machines. It is asked last, when nothing else gave keys.
    ("169.254.169.254", NO_KEYS),
    (
        "AccessDenied",
        "These keys may not do that. A broker needs s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject and \
         s3:AbortMultipartUpload (docs/stores.md).",
    ),
];

const UNKNOWN_KEY: &str = "The store does not know the access key. It is AWS_ACCESS_KEY_ID, or what the AWS tools' files \
                           have for AWS_PROFILE.";
const OTHER_REGION: &str = "The bucket seems to be in another region. Say which: --s3-region REGION";
const NO_KEYS: &str = "No keys were found, and this machine has no role that could be asked. For S3: AWS_ACCESS_KEY_ID and \
                       AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for the others docs/stores.md.";

/// What to do about an error with this text, if it is one that many meet.
pub fn advice(text: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(word, _)| text.contains(word)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_have_advice_and_others_none() {
        assert!(advice("404: <Code>NoSuchBucket</Code>").unwrap().contains("ottla store create"));
        let found = advice("Error performing PUT http://169.254.169.254/latest/api/token in 1ms").unwrap();
        assert!(found.contains("AWS_ACCESS_KEY_ID"), "{found}");
        assert_eq!(advice("connection refused"), None);
    }
}
