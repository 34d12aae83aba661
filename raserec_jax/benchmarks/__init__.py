"""How fast and how large each part is, beside what the device allows and beside other ways and other libraries."""
