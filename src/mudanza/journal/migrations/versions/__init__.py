"""One module for each schema. A released one is never changed: databases that were made by it are out there."""
