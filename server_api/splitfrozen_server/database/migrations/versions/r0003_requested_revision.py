"""Base models remember the revision that was asked for beside the one that was found."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what was asked for before is not known."""
    op.add_column("base_models", sa.Column("requested_revision", sa.String(255), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("base_models", "requested_revision")
