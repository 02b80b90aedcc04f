"""From trigger to decision to incident: what a decision rests on, the guards, approvals, holds, deadlines, blame."""
