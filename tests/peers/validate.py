"""Validates the JSON document on standard input against a JSON Schema: `validate.py SCHEMA`. Exits with 1 and says where it
does not fit."""

import json
import sys

import jsonschema

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
validator = jsonschema.validators.validator_for(schema)
validator.check_schema(schema)
errors = list(validator(schema).iter_errors(json.load(sys.stdin)))
for error in errors[:10]:
    print(f"{error.json_path}: {error.message[:300]}")
sys.exit(bool(errors))
