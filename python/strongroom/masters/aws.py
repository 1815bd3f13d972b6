"""A master key in AWS KMS."""

from __future__ import annotations

import re
from typing import Any, Final

from strongroom import _native
from strongroom.errors import DecryptionError, MasterKeyError
from strongroom.masters.service import (
    ATTEMPTS,
    CONNECT_SECONDS,
    READ_SECONDS,
    ServiceMaster,
    load,
    service_key_id,
)

__all__ = ["AwsKmsMasterKey"]

CONTEXT_NAME: Final = "strongroom:key-id"
"""Name of the wrapped key's id in the encryption context: policies and CloudTrail show it."""

_KEY_ARN = re.compile(r"arn:[\w-]+:kms:[\w-]+:\d+:key/[\w-]+")
_ARN = re.compile(r"arn:[\w-]+:kms:([\w-]+):\d+:(?:key|alias)/.+")
# https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html and each operation's page.
_RETRYABLE = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_MEANING = {
    "AccessDenied": "these credentials have no right to do that with this key",
    "AccessDeniedException": "these credentials have no right to do that with this key",
    "DisabledException": "the key is disabled",
    "ExpiredTokenException": "the credentials have expired",
    "IncompleteSignature": "the credentials are refused",
    "InvalidClientTokenId": "the credentials are refused",
    "InvalidKeyUsageException": "the key is not one for ENCRYPT_DECRYPT",
    "InvalidSignatureException": "the credentials are refused",
    "KMSInvalidStateException": "the key's state forbids it (disabled, or its deletion is due)",
    "NotFoundException": "there is no such key",
    "UnrecognizedClientException": "the credentials are refused",
}
_NOT_AUTHENTIC = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class AwsKmsMasterKey(ServiceMaster):
    """A symmetric KMS key (ENCRYPT_DECRYPT). Needs the extra `aws`.

    Credentials, profile and region are those of boto3's own configuration; an ARN names its
    region. The wrapped key's id is bound as encryption context. The client gives up after 3
    attempts of at most 10 seconds, with boto3's own waits between.

    Rights: kms:Encrypt and kms:Decrypt; kms:DescribeKey where the key is named by an alias or a
    bare id; kms:ReEncryptFrom and kms:ReEncryptTo for `master rotate`.
    """

    def __init__(
        self,
        key: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = READ_SECONDS,
    ) -> None:
        """Name a key; nothing is called yet.

        Args:
            key: ARN of the key, or of an alias; `alias/NAME`; or the key's bare id.
            region: For a key that is not named by an ARN; None for what boto3 is configured for.
            endpoint_url: Of another endpoint than the region's own.
            timeout: Seconds that one attempt waits for an answer.

        Raises:
            MasterKeyError: boto3 isn't installed.
        """
        if not isinstance(key, str) or not key or not key.isprintable():
            raise ValueError("a KMS key is named by an ARN, alias/NAME, or its id")
        found = _ARN.fullmatch(key)
        self._name = key
        self._arn = key if _KEY_ARN.fullmatch(key) else None
        self._region = found[1] if found else region
        self._endpoint_url = endpoint_url
        self._timeout = timeout
        self._boto3 = load("boto3", "aws", "a master key in AWS KMS")
        self._made: tuple[int, Any] | None = None

    @property
    def uri(self) -> str:
        """`awskms:///` and the key's ARN: a store goes on with this key if an alias moves on."""
        return f"awskms:///{self._arn or self._name}"

    @property
    def key_id(self) -> str:
        """SHA-256(the key's ARN)[:16] in hex; for an alias the first use asks KMS for the ARN.

        Raises:
            MasterKeyError: KMS refused, or is out of reach.
        """
        return service_key_id(self._full_name())

    def wrap(self, key: _native.MemoryLockedKey, context: str) -> bytes:
        """Encrypt a key with kms:Encrypt.

        Raises:
            MasterKeyError: KMS refused, is out of reach, or gave something that is no answer.
        """
        material = key.get()
        try:
            answer = self._call(
                "encrypt",
                KeyId=self._full_name(),
                # boto3 takes any buffer and would keep a bytes for as long as it likes.
                Plaintext=material,
                EncryptionContext={CONTEXT_NAME: context},
            )
        finally:
            material[:] = bytes(len(material))
        return self._bytes(answer, "CiphertextBlob")

    def unwrap(self, blob: bytes, context: str) -> bytes:
        """Decrypt what `wrap` gave with kms:Decrypt.

        Raises:
            DecryptionError: The blob or the context was changed, or another key wrapped it.
            MasterKeyError: KMS refused, is out of reach, or gave something that is no answer.
        """
        answer = self._call(
            "decrypt",
            KeyId=self._full_name(),
            CiphertextBlob=blob,
            EncryptionContext={CONTEXT_NAME: context},
        )
        return self._bytes(answer, "Plaintext")

    def rewrap(self, blob: bytes, context: str) -> bytes:
        """Encrypt anew, under the key's present material, inside KMS (kms:ReEncrypt).

        Raises:
            DecryptionError, MasterKeyError: As `unwrap`.
        """
        name = self._full_name()
        answer = self._call(
            "re_encrypt",
            SourceKeyId=name,
            DestinationKeyId=name,
            CiphertextBlob=blob,
            SourceEncryptionContext={CONTEXT_NAME: context},
            DestinationEncryptionContext={CONTEXT_NAME: context},
        )
        return self._bytes(answer, "CiphertextBlob")

    def _full_name(self) -> str:
        if self._arn is None:
            answer = self._call("describe_key", KeyId=self._name)
            arn = (answer.get("KeyMetadata") or {}).get("Arn")
            if not isinstance(arn, str) or not _KEY_ARN.fullmatch(arn):
                raise self._no_answer()
            self._arn = arn
        return self._arn

    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        process = _native.process_generation()
        if self._made is None or self._made[0] != process:
            from botocore.config import Config

            config = Config(
                connect_timeout=min(CONNECT_SECONDS, self._timeout),
                read_timeout=self._timeout,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            )
            # A session of its own: boto3's default one is not for threads.
            client = self._boto3.session.Session().client(
                "kms",
                region_name=self._region,
                endpoint_url=self._endpoint_url,
                config=config,
            )
            self._made = process, client
        return self._made[1]

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        from botocore import exceptions

        try:
            answer: dict[str, Any] = getattr(self._client(), operation)(**arguments)
        except exceptions.ClientError as error:
            raise self._refused(error.response) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
            raise MasterKeyError("boto3 finds no AWS credentials") from None
        except exceptions.NoRegionError:
            raise MasterKeyError(
                "boto3 knows no AWS region: name the key by its ARN, or set AWS_REGION"
            ) from None
        except (exceptions.SSLError, exceptions.ParamValidationError) as error:
            raise MasterKeyError(f"the call to AWS KMS failed: {type(error).__name__}") from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
            raise MasterKeyError(
                f"AWS KMS is out of reach: {type(error).__name__}", retryable=True
            ) from None
        except exceptions.BotoCoreError as error:
            raise MasterKeyError(f"the call to AWS KMS failed: {type(error).__name__}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._no_answer() from None
        return answer

    def _refused(self, response: dict[str, Any]) -> MasterKeyError | DecryptionError:
        code = str((response.get("Error") or {}).get("Code", ""))
        status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode", 0)
        if code in _NOT_AUTHENTIC:
            return DecryptionError()
        retryable = code in _RETRYABLE or status == 429 or status >= 500
        # The code alone: the message may hold names that are no business of a log.
        shown = code if re.fullmatch(r"[A-Za-z.]{1,80}", code) else f"status {status}"
        meaning = _MEANING.get(code, "it can't do that now" if retryable else "it refused")
        return MasterKeyError(f"AWS KMS and {self.uri}: {meaning} ({shown})", retryable=retryable)

    def _bytes(self, answer: dict[str, Any], field: str) -> bytes:
        value = answer.get(field)
        if not isinstance(value, bytes) or not value:
            raise self._no_answer()
        return value

    def _no_answer(self) -> MasterKeyError:
        return MasterKeyError(f"AWS KMS and {self.uri}: what came back is no answer of KMS")

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<AwsKmsMasterKey {self._name}>"
