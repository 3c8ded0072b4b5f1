"""The parts of `bench/data.py`: each measures one thing that curation does, most of them beside another tool."""
