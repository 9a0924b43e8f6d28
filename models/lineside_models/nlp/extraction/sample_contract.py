"""A contract that nobody has signed: golden input of document bundles, and an example for tests."""

GOLDEN_TEXT = """MAINTENANCE AND SUPPORT AGREEMENT

This Maintenance and Support Agreement (the "Agreement") is entered into as of March 3, 2021 (the "Effective Date") by
and between Northwind Rolling Mills, Inc., a Delaware corporation having its principal place of business at 12 Harbour
Street, Springfield ("Customer"), and Blue Ridge Conveyor Systems LLC, a Virginia limited liability company
("Supplier"). Customer and Supplier are each a "Party" and together the "Parties".

WHEREAS, Supplier maintains the conveyors, furnaces and inspection stations of strip mills; and WHEREAS, Customer wants
Supplier to maintain those of its plant for a yearly fee of $1,250,000.00.

NOW, THEREFORE, the Parties agree as follows:

1. Services. Supplier inspects each station every four weeks, replaces worn parts within two working days, and keeps a
record of each visit, which Customer may read at any time.

2. Term. This Agreement begins on the Effective Date and ends three years later, unless a Party gives notice in writing.

3. Governing Law. This Agreement shall be governed by and construed in accordance with the laws of the State of New
York, without regard to its conflict of laws principles.

IN WITNESS WHEREOF, the Parties have signed this Agreement on March 3, 2021.
"""
"""Text of the contract."""
