"""Schemas of pydantic models, kept to the fields they name."""

import copy
import threading

import pytest
from pydantic import BaseModel, ConfigDict

from alorakit.bindings.schemas import fields_only, schema_of
from alorakit.engine.errors import RequestError


class Part(BaseModel):
    name: str


class Report(BaseModel):
    part: Part
    others: list[Part] = []
    readings: dict[str, float] = {}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Named(BaseModel):
    """Fields named like the schema's own words."""

    type: str
    properties: dict[str, Part]


def test_every_object_is_closed_and_the_schema_itself_is_kept():
    schema = Report.model_json_schema()
    before = copy.deepcopy(schema)
    closed = fields_only(schema)
    assert schema == before
    assert closed["additionalProperties"] is False
    assert closed["$defs"]["Part"]["additionalProperties"] is False
    assert closed["properties"]["readings"] == before["properties"]["readings"]


def test_what_a_model_takes_besides_its_fields_is_its_own_to_say():
    assert fields_only(Open.model_json_schema())["additionalProperties"] is True


def test_fields_named_like_words_of_a_schema_are_fields():
    closed = fields_only(Named.model_json_schema())
    assert set(closed["properties"]) == {"type", "properties"}
    assert closed["properties"]["properties"]["additionalProperties"] == {"$ref": "#/$defs/Part"}
    assert closed["additionalProperties"] is False


@pytest.mark.parametrize("value", [{"type": "object", "properties": {}}, [1, {"type": "object", "properties": {}}]])
def test_values_in_a_schema_are_no_schemas(value):
    assert fields_only({"default": value, "const": value, "enum": [value]}) == {
        "default": value,
        "const": value,
        "enum": [value],
    }


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    where: threading.Thread


@pytest.mark.parametrize("format", [Odd, BaseModel])
def test_a_model_without_a_schema_is_a_typed_error(format, fake_engine):
    with pytest.raises(RequestError, match=r"has no JSON schema .*whose fields JSON can hold"):
        schema_of(format)
    m = fake_engine(["x"]).session()
    with pytest.raises(RequestError, match="has no JSON schema"):
        m.chat("hi", format=format)
