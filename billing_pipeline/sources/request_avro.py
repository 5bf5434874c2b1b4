"""What a profile wants of an Avro file's schema. Pure.

Not here: resolving it against a file's own schema (avro), reading rows (resources/avro), judging them (request_lines).
"""

from billing_pipeline.sources.avro import INTEGERS, NUMBERS, TEXTS, TIMESTAMPS, Kind, WantedField
from billing_pipeline.sources.profile import (
    DurationField,
    FlagField,
    InstantField,
    NumberField,
    PseudonymField,
    SourceProfile,
)


def wanted_of(profile: SourceProfile) -> tuple[WantedField, ...]:
    """Return one wanted field per path that the profile reads, named by that path."""
    wanted: dict[str, WantedField] = {}
    for name in type(profile.fields).model_fields:
        spec = getattr(profile.fields, name)
        if spec is None:
            continue
        if isinstance(spec, PseudonymField):
            wanted |= {path: WantedField(name=path, names=(path,), kinds=TEXTS) for path in spec.pseudonym_of}
            continue
        wanted[spec.path] = WantedField(
            name=spec.path,
            names=(spec.path, *getattr(spec, "aliases", ())),
            kinds=_kinds(spec),
            optional=isinstance(spec, NumberField) and spec.optional,
        )
    return tuple(wanted.values())


def _kinds(spec: object) -> frozenset[Kind]:
    match spec:
        case InstantField():
            return TIMESTAMPS
        case DurationField():
            return NUMBERS
        case NumberField():
            return INTEGERS
        case FlagField():
            return frozenset({Kind.BOOLEAN})
        case _:
            return TEXTS
